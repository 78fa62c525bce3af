"""The tables of boards in docs are what `lorafuse leaderboard show` prints of the published boards."""

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafuse_bench.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = {"results.md": 4, "learned-fusion.md": 1}
"""Pages, and how many commands print tables in each at least."""
SHOWN = re.compile(r"<!-- lorafuse (leaderboard show .*?) -->\n(.*?)<!-- end -->", re.DOTALL)
"""A command in a comment, and the table that it printed; nothing where it is to be printed for the first time."""


def refreshed(page: str) -> str:
    """The page with every table printed anew."""

    def printed(block: re.Match[str]) -> str:
        done = CliRunner().invoke(app, block[1].split())
        assert done.exit_code == 0, done.output
        return f"<!-- lorafuse {block[1]} -->\n{done.stdout.strip()}\n<!-- end -->"

    return SHOWN.sub(printed, page)


@pytest.mark.parametrize("name", PAGES)
def test_tables_are_what_the_boards_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = ROOT / "docs" / name
    page = path.read_text()
    assert len(SHOWN.findall(page)) >= PAGES[name]
    found = refreshed(page)
    if os.environ.get("LORAFUSE_REFRESH_DOCS"):
        path.write_text(found)
    assert page == found, f"LORAFUSE_REFRESH_DOCS=1 pytest {Path(__file__).name} writes the tables anew"


def test_tables_of_several_boards_stand_apart() -> None:
    """Each under its title; in Markdown, lines of tables that follow one another are one table."""
    board = ROOT / "leaderboards" / "published" / "mini-mini32" / "leaderboard.json"
    lines = CliRunner().invoke(app, ["leaderboard", "show", str(board), "--markdown"]).stdout.splitlines()
    for i, line in enumerate(lines):
        if line.startswith("|  | method"):
            assert lines[i - 1] == "" and lines[i - 2].startswith("**mini32")
