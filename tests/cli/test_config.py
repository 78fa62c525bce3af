"""--config and --save-config: a command's options as YAML, whatever options it has."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.cli._config import configurable

seen: dict[str, Any] = {}


@configurable("shown")
def command(
    methods: Annotated[str, typer.Option(help="Words.")] = "all",
    limit: Annotated[int | None, typer.Option(min=1)] = None,
    num_fewshot: Annotated[int | None, typer.Option("--num-fewshot", "--num_fewshot")] = None,
    gen_kwargs: Annotated[str | None, typer.Option()] = None,
    include_path: Annotated[list[Path] | None, typer.Option("--include-path")] = None,
    run_code: Annotated[bool, typer.Option("--confirm", help="Consent.")] = False,
    shown: Annotated[bool, typer.Option("--show", help="Only ask.")] = False,
) -> None:
    """A command."""
    seen.clear()
    seen.update(locals())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command on a YAML text and more words."""
    monkeypatch.chdir(tmp_path)
    app = typer.Typer(cls=cli._OneLineErrors)
    app.callback()(lambda: None)
    app.command("command")(command)

    def call(text: str, *words: str) -> Any:
        Path("run.yaml").write_text(text)
        return CliRunner().invoke(app, ["command", "--config", "run.yaml", *words])

    return call


def test_every_kind_of_option_is_read(run: Any) -> None:
    text = """
methods: [base, "svd:rank=2"]
limit: 3
num-fewshot: 1
gen_kwargs: {temperature: 0, until: ["a,b", "\\n"]}
include_path: [a, b]
confirm: true
"""
    done = run(text)
    assert (done.exit_code, done.output) == (0, "")
    assert seen == {
        "methods": "base,svd:rank=2",
        "limit": 3,
        "num_fewshot": 1,
        "gen_kwargs": '{"temperature": 0, "until": ["a,b", "\\n"]}',
        "include_path": [Path("a"), Path("b")],
        "run_code": True,
        "shown": False,
    }


def test_what_is_saved_says_the_same_again(run: Any) -> None:
    assert (
        run(
            "limit: 3\ninclude-path: a\nconfirm: yes", "--methods", "base", "--save-config", "out.yaml"
        ).exit_code
        == 0
    )
    before = dict(seen)
    saved = Path("out.yaml").read_text()
    assert list(yaml.safe_load(saved)) == [
        "methods", "limit", "num_fewshot", "gen_kwargs", "include_path", "confirm",
    ]  # fmt: skip
    assert run(saved).exit_code == 0
    assert seen == before


def test_what_only_asks_is_not_saved(run: Any) -> None:
    """A plan that was looked at and saved is one that runs."""
    assert run("limit: 3", "--show", "--save-config", "out.yaml").exit_code == 0
    assert seen["shown"] and "show" not in yaml.safe_load(Path("out.yaml").read_text())


def test_the_command_line_wins_and_says_so(run: Any) -> None:
    done = run("limit: 3\nmethods: base", "--limit", "2", "--methods", "base")
    assert (done.exit_code, seen["limit"]) == (0, 2)
    assert done.stderr == "lorafuse: limit is 2, as the command line says; run.yaml says 3.\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("limt: 3", "unknown option 'limt' in run.yaml. Did you mean 'limit'?"),
        ("config: x", "unknown option 'config' in run.yaml"),
        ("limit: 3.5", "run.yaml: limit: "),
        ("limit: 0", "run.yaml: limit: "),
        ("limit: many", "run.yaml: limit: "),
        ("confirm: 7", "run.yaml: confirm: "),
        ("num_fewshot: 1\nnum-fewshot: 2", "run.yaml: num-fewshot is there twice"),
        ("limit: 3\nmethods: base\nlimit: 4", "run.yaml: not readable YAML: limit is there twice"),
        ("gen_kwargs:\n  a: 1\n  a: 2", "a is there twice"),
        ("methods: &a [base, *a]", "stand for too many values"),
        ("[1, 2]", "expected lines such as"),
        ("{", "not readable YAML"),
        ("", "expected lines such as"),
    ],
)
def test_bad_files_are_one_line(run: Any, text: str, said: str) -> None:
    done = run(text)
    assert done.exit_code == 2
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_lorafuse_run_saves_how_to_run_and_not_what_to_show(tmp_path: Path) -> None:
    saved = tmp_path / "saved.yaml"
    words = ["run", "--methods", "svdd", "--plan", "--json", "--save-config", str(saved)]
    assert CliRunner().invoke(cli.app, words).exit_code == 2  # no such method, said after the file is written
    assert {"plan", "json"}.isdisjoint(yaml.safe_load(saved.read_text()))


def test_lorafuse_run_takes_one(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("methods: svdd\nsuites: sst2\n")
    done = CliRunner().invoke(cli.app, ["run", "--config", str(tmp_path / "run.yaml")])
    assert done.exit_code == 2 and "unknown method 'svdd'" in done.stderr
    absent = CliRunner().invoke(cli.app, ["run", "--config", str(tmp_path / "absent.yaml")])
    assert absent.exit_code == 2 and absent.stderr.count("\n") == 1
