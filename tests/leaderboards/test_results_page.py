"""The tables of docs/results.md are what `lorafuse leaderboard show` prints of the published boards."""

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafuse_bench.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "results.md"
SHOWN = re.compile(r"<!-- lorafuse (leaderboard show .*?) -->\n(.*?)<!-- end -->", re.DOTALL)
"""A command in a comment, and the table that it printed; nothing where it is to be printed for the first time."""


def refreshed(page: str) -> str:
    """The page with every table printed anew."""

    def printed(block: re.Match[str]) -> str:
        done = CliRunner().invoke(app, block[1].split())
        assert done.exit_code == 0, done.output
        return f"<!-- lorafuse {block[1]} -->\n{done.stdout.strip()}\n<!-- end -->"

    return SHOWN.sub(printed, page)


def test_tables_are_what_the_boards_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = PAGE.read_text()
    assert len(SHOWN.findall(page)) >= 4
    found = refreshed(page)
    if os.environ.get("LORAFUSE_REFRESH_DOCS"):
        PAGE.write_text(found)
    assert page == found, f"LORAFUSE_REFRESH_DOCS=1 pytest {Path(__file__).name} writes the tables anew"
