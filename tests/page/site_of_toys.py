"""A page of three boards: `toy` with samples, one where every string is a payload, one on oblivion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evil import EVIL
from toy_cells import write

from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.collect import collect
from lorafuse_bench.leaderboards.boards.evidence import evidence_of
from lorafuse_bench.leaderboards.pages.page import write_page
from lorafuse_bench.leaderboards.results.samples import Sample, write_samples
from lorafuse_bench.tasks.suites import suite

N = 20
OBLIVION = tuple(suite("or_mtl").tasks)
TOY = "#board=2"  # boards stand by suite: the payload's, or_mtl, toy
# Of 20 items, those each method gets right: 0 is the first.
RIGHT = {
    "base": {"one": range(4), "two": range(2)},
    "oracle": {"one": range(20), "two": range(16)},
    "moa": {"one": range(15), "two": range(4, 20)},
    "svd": {"one": range(4, 14), "two": range(8)},
    "concat:rank=8": {"one": range(12), "two": range(12)},
    "=HYPERLINK(1)": {"one": range(6), "two": range(3)},
}
FAMILIES = {"base": "floor", "oracle": "reference", "moa": "routing"}
COSTS = {"base": 0, "oracle": 4000, "moa": 5000, "svd": 1000, "concat:rank=8": 4000, "=HYPERLINK(1)": 50}


def write_site(folder: Path) -> Path:
    """The page's path."""
    results = folder / "results"
    for label, right in RIGHT.items():
        scores = {key: [float(i in hits) for i in range(N)] for key, hits in right.items()}
        _cell(results, label, scores, prompt="prompt")
        if label != "oracle":  # no expert was trained for these
            _cell(results, label, dict.fromkeys(OBLIVION, scores["two"]), suite="or_mtl")
    for label in ("base", "oracle", EVIL):
        scores = {EVIL: [float(label != "base" and i < 18) for i in range(N)]}
        _cell(results, label, scores, suite=EVIL, prompt=EVIL)
    leaderboard = build([results], note=EVIL)
    return write_page(folder, leaderboard, evidence_of(collect([results]), leaderboard))


def _cell(out: Path, label: str, scores: dict[str, Any], prompt: str = "", **changes: Any) -> None:
    path = write(
        out,
        label,
        scores,
        method={"family": FAMILIES.get(label, "merging")},
        cost={"extra_parameters": COSTS.get(label, 10), "eval_seconds": 2.5},
        **changes,
    )
    if prompt:
        write_samples(
            path,
            [
                Sample(
                    task=key,
                    doc_id=i,
                    doc_hash=f"{i}",
                    prompt=f"{prompt} {i}",
                    target="yes",
                    output=f"yes {prompt}" if score else f"no {prompt}",
                    score=score,
                )
                for key, values in scores.items()
                for i, score in enumerate(values)
            ],
        )
