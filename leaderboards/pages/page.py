"""The leaderboard as one static page (see html.py): it embeds the leaderboard as JSON and draws it with scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_text
from lorafuse_bench.leaderboards.boards.board import Leaderboard, to_json
from lorafuse_bench.leaderboards.boards.evidence import Evidence, as_json
from lorafuse_bench.leaderboards.pages import html

SCRIPTS = ("dom", "theme", "scores", "state", "table", "plots", "compare", "samples", "main")
COSTS = {
    "extra_parameters": "extra parameters",
    "eval_seconds": "evaluation, seconds",
    "served_seconds_per_1000_tokens": "served by vLLM, seconds per 1,000 tokens",
}


def write_page(folder: str | Path, leaderboard: Leaderboard, evidence: Sequence[Evidence] = ()) -> Path:
    """Write `index.html` into `folder` and return its path."""
    path = Path(folder) / "index.html"
    write_text(path, render(leaderboard, evidence))
    return path


def render(
    leaderboard: Leaderboard,
    evidence: Sequence[Evidence] = (),
    home: str | None = None,
    methods: Mapping[str, str] | None = None,
) -> str:
    """The page's HTML; the same leaderboard and evidence give the same text.

    `evidence` (see evidence.py), one for each board in order, lets the page compare methods on the same
    items, show recovered gaps and, for the package's own texts, samples; without it those are absent.
    In a site (see site.py), `home` is the address of the index, and `methods` has that of each label's page.
    """
    if evidence and len(evidence) != len(leaderboard.boards):
        raise LorafuseError(
            f"{len(leaderboard.boards)} boards but evidence of {len(evidence)}. Give one for each, or none."
        )
    extras = [as_json(*pair) for pair in zip(leaderboard.boards, evidence, strict=True)] if evidence else []
    data = {"leaderboard": json.loads(to_json(leaderboard)), "extras": extras, "methods": dict(methods or {})}
    return html.render(
        "page", SCRIPTS, boards=leaderboard.boards, costs=COSTS.items(), data=html.embedded(data), home=home
    )
