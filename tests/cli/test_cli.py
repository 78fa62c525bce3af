"""The `lorafuse` command itself: help, version, how errors and interruptions end, lazy imports."""

import gc
import pkgutil
import signal
import subprocess
import sys
import warnings
from io import BytesIO, TextIOWrapper

import pytest
import typer
from typer.testing import CliRunner

from lorafuse_bench import __version__, cli
from lorafuse_bench.errors import LorafuseError

HEAVY = ("torch", "transformers", "lm_eval", "datasets", "peft", "numpy", "pandas", "matplotlib", "scipy")


@pytest.fixture
def failing():
    """The application with a subcommand that raises what it is told to."""
    app = typer.Typer(cls=cli._OneLineErrors, pretty_exceptions_enable=False)

    @app.callback()
    def _options() -> None:
        pass

    @app.command()
    def fail(kind: str) -> None:
        raise {
            "bad": LorafuseError("no zoo at x. Name one."),
            "stop": KeyboardInterrupt(),
            "term": KeyboardInterrupt(signal.SIGTERM),
            "bug": KeyError("k"),
        }[kind]

    return app


def test_help_names_every_subcommand():
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    assert all(name in result.output for name in cli.SUBCOMMANDS)


def test_version():
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output) == (0, f"lorafuse-bench {__version__}\n")


def test_every_file_is_listed():
    assert sorted(cli.SUBCOMMANDS) == sorted(
        m.name.replace("_", "-") for m in pkgutil.iter_modules(cli.__path__) if m.name[0] != "_"
    )


@pytest.mark.parametrize("name", cli.SUBCOMMANDS)
def test_every_subcommand_has_help(name):
    result = CliRunner().invoke(cli.app, [name, "--help"])
    assert result.exit_code == 0
    assert f"lorafuse {name}" in result.output.replace("root", "lorafuse")


def test_help_imports_nothing_heavy():
    code = f"import sys, lorafuse_bench.cli; print([m for m in {HEAVY} if m in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert printed == "[]\n"


def test_bad_input_is_one_line_and_exit_code_2(failing):
    result = CliRunner().invoke(failing, ["fail", "bad"])
    assert (result.exit_code, result.stderr) == (2, "lorafuse: no zoo at x. Name one.\n")


def test_what_a_scheduler_sends_is_an_interrupt_with_its_own_exit_code(failing, monkeypatch):
    result = CliRunner().invoke(failing, ["fail", "term"])
    assert result.exit_code == 143
    assert result.stderr.startswith("lorafuse: interrupted. What was finished is kept")
    taken = {signal.SIGTERM: signal.SIG_DFL, signal.SIGHUP: signal.SIG_IGN}
    monkeypatch.setattr(signal, "getsignal", taken.get)
    monkeypatch.setattr(signal, "signal", taken.__setitem__)
    monkeypatch.setattr(gc, "set_threshold", lambda number: None)
    monkeypatch.setattr(cli, "app", lambda prog_name: None)
    monkeypatch.setenv("RANK", "0")
    cli.main()
    assert taken[signal.SIGTERM] == signal.SIG_DFL
    monkeypatch.delenv("RANK")
    cli.main()
    assert taken[signal.SIGHUP] == signal.SIG_IGN
    with pytest.raises(KeyboardInterrupt) as stopped:
        taken[signal.SIGTERM](signal.SIGTERM, None)
    assert stopped.value.args == (signal.SIGTERM,)


def test_interruption_is_one_line_and_exit_code_130(failing):
    result = CliRunner().invoke(failing, ["fail", "stop"])
    assert result.exit_code == 130
    assert result.stderr.startswith("lorafuse: interrupted")
    assert result.stderr.count("\n") == 1


def test_a_bug_keeps_its_traceback(failing):
    result = CliRunner().invoke(failing, ["fail", "bug"])
    assert isinstance(result.exception, KeyError)


def test_unknown_subcommand_is_exit_code_2():
    result = CliRunner().invoke(cli.app, ["nonsense"])
    assert result.exit_code == 2
    assert "nonsense" in result.stderr
    assert "Did you mean 'run'? See `lorafuse --help`." in CliRunner().invoke(cli.app, ["rnu"]).stderr


@pytest.mark.parametrize(
    ("asked", "kept"), [([], [UserWarning]), (["default"], [FutureWarning, UserWarning])]
)
def test_what_packages_will_rename_is_not_the_users_business(
    asked: list[str], kept: list[type[Warning]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "warnoptions", asked)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        cli._quiet()
        warnings.warn("is_old is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("weights are missing", UserWarning, stacklevel=1)
    assert [warning.category for warning in told] == kept


def test_a_name_that_no_text_holds_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as of a folder in another encoding, after hours of work."""
    screen = TextIOWrapper(BytesIO(), "utf-8")
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(gc, "set_threshold", lambda number: None)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(cli, "app", lambda prog_name: print("results in n\udcff"))
    cli.main()
    screen.seek(0)
    assert screen.read() == "results in n\\udcff\n"
