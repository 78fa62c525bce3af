"""--json: every command that prints a table gives the same as data, and nothing but that on standard output."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.cli._answers import Answer, tell

FILES = sorted(Path(cli.__file__).parent.glob("*.py"))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    for label, scores in (("base", [0.0] * 8), ("oracle", [1.0] * 8), ("concat", [1.0, 0.0] * 4)):
        write(out, label, {"one": scores})
    return out


def as_json(*words: object) -> Any:
    done = CliRunner().invoke(cli.app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_methods_and_zoos() -> None:
    assert {"method", "family", "needs", "about", "cost", "paper"} == set(as_json("methods")[0])
    assert [o["option"] for o in as_json("methods", "ties")["options"]] == [
        "density",
        "weights",
        "scale",
        "space",
    ]
    assert len(as_json("zoo", "show", "mini")["experts"]) == 7
    assert {"analysis", "about", "paper"} == set(as_json("analyze", "--list")[0])
    assert as_json("zoo", "list")[0]["zoo"] == "mini"


def test_boards(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "board.json"
    built = as_json("leaderboard", "build", results, "--out", out)
    assert built == json.loads(out.read_text()) == as_json("leaderboard", "show", out)
    packed = as_json("leaderboard", "pack", results, "--out", tmp_path / "packed", "--caption", "Toy.")
    assert packed["boards"][0]["caption"].startswith("Toy.")
    assert as_json("leaderboard", "verify", tmp_path / "packed") == {"results": 3, "leaderboards": 1}
    published = as_json("leaderboard", "publish", tmp_path / "packed", "--repo", "somebody/boards")
    assert published["published"] is None and published["files"][0]["bytes"] > 0
    assert as_json("compare", "base", "oracle", "--results", results)["tasks"][0]["difference"] == -1.0


def test_every_command_that_makes_a_table_answers_with_it() -> None:
    """Tables are printed in one place, so that none is without its JSON."""
    for file in FILES:
        text = file.read_text()
        if file.name.startswith("_"):
            continue
        assert "Console(" not in text and "console().print" not in text, f"{file.name} prints by itself"
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef) and function.returns and function.name[0] != "_":
                decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
                assert (ast.unparse(function.returns) == "Answer") == ("answers" in decorators), function.name


def test_lines_of_an_answer_move_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    tell(Answer({}, ["packed: a\x1b[2Jb", "**title**\n\n| a |"]), as_json=False)
    assert capsys.readouterr().out == "packed: a?[2Jb\n**title**\n\n| a |\n"
