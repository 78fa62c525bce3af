"""`lorafuse leaderboard build` and `show`: the table, the files, bad input in one line."""

import json
from pathlib import Path

import pytest
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench import cli


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Base, oracle and one method with a label that looks like markup."""
    out = tmp_path / "results"
    write(out, "base", {"one": [0.0] * 8})
    write(out, "oracle", {"one": [1.0] * 8})
    write(out, "[red]concat[/red]", {"one": [1.0, 0.0] * 4})
    return out


def test_build_prints_the_table_and_where_the_page_is(results: Path, tmp_path: Path) -> None:
    out, site = tmp_path / "leaderboard.json", tmp_path / "site"
    done = CliRunner().invoke(
        cli.app, ["leaderboard", "build", str(results), "--out", str(out), "--html", str(site)]
    )
    assert done.exit_code == 0
    line = next(line for line in done.output.splitlines() if "[red]concat[/red]" in line)
    assert line.split() == ["1", "[red]concat[/red]", "0.500", "0.189", "0.500", "1.02K", "2.0"]
    assert f"page: {site / 'index.html'}" in done.output
    assert (site / "index.html").is_file()
    before = out.read_bytes()
    assert (
        CliRunner().invoke(cli.app, ["leaderboard", "build", str(results), "--out", str(out)]).exit_code == 0
    )
    assert out.read_bytes() == before


def test_show_prints_what_build_wrote(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "leaderboard.json"
    CliRunner().invoke(cli.app, ["leaderboard", "build", str(results), "--out", str(out), "--note", "Toy."])
    shown = CliRunner().invoke(cli.app, ["leaderboard", "show", str(out)])
    assert shown.exit_code == 0
    assert "[red]concat[/red]" in shown.output
    assert "Toy. Suite toy on zoo mini" in shown.output
    as_json = CliRunner().invoke(cli.app, ["leaderboard", "show", str(out), "--json"])
    assert json.loads(as_json.output) == json.loads(out.read_text())


def test_limited_results_need_the_flag(results: Path, tmp_path: Path) -> None:
    for label in ("base", "oracle"):
        write(tmp_path / "few", label, {"one": [float(label == "oracle")] * 4}, limit=4)
    command = ["leaderboard", "build", str(tmp_path / "few"), "--out", str(tmp_path / "board.json")]
    refused = CliRunner().invoke(cli.app, command)
    assert refused.exit_code == 2
    assert "limit: 4" in refused.output
    assert not (tmp_path / "board.json").exists()
    allowed = CliRunner().invoke(cli.app, [*command, "--allow-limit"])
    assert allowed.exit_code == 0
    assert "LIMITED RUN" in allowed.output


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    for command in (["build", str(tmp_path)], ["show", str(tmp_path / "absent.json")]):
        done = CliRunner().invoke(cli.app, ["leaderboard", *command])
        assert done.exit_code == 2
        assert len(done.output.strip().splitlines()) == 1
