"""`bench grid`: the commands that are timed, and a report of ratios of one round, of sides that agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from toy_cells import write

from lorafuse_bench.bench import grid
from lorafuse_bench.bench.grid import Took
from lorafuse_bench.errors import LorafuseError

SECONDS = {"lorafuse": Took(10.0, 8.0, 3.0), "lm_eval": Took(30.0, 28.0)}
ACCURACY = {"base": 0.25, "concat": 0.75}


def acted(words: Sequence[str], theirs: dict[str, float]) -> Took:
    """What the commands leave behind, without running them."""
    out = Path(words[words.index("--out" if words[0] == "lorafuse" else "--output_path") + 1])
    if words[0] == "lorafuse":
        for label, score in ACCURACY.items():
            write(
                out, label, {"sst2": [1.0] * round(score * 8) + [0.0] * round((1 - score) * 8)}, suite="sst2"
            )
        return Took(5.0, 8.0, 3.0) if "--workers" in words else SECONDS["lorafuse"]
    out.mkdir(parents=True)
    scores = {"lorafuse_sst2": {"acc,none": theirs[out.name]}}
    (out / "results_x.json").write_text(json.dumps({"results": scores}))
    return SECONDS["lm_eval"]


def report(monkeypatch: pytest.MonkeyPatch, theirs: dict[str, float]) -> dict[str, object]:
    monkeypatch.setattr(grid, "_timed", lambda words: acted(words, theirs))
    return grid.run("base,concat", "sst2", 4, 2, "local", 1)


def test_ratios_are_of_all_commands_of_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(monkeypatch, ACCURACY)
    values = {line["what"]: (line["value"], line["met"]) for line in found["targets"]}  # type: ignore[attr-defined]
    assert values == {
        "stock hf loop over lorafuse run": (6.0, True),
        "the same in processor seconds": (7.0, True),
        "seconds to the first cell": (3.0, True),
        "one worker over 2 local workers": (2.0, True),
        "largest difference of scores": (0.0, True),
    }
    assert found["methods"] == 2 and found["largest_difference"] == 0


def test_sides_whose_scores_differ_are_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    *_, line = report(monkeypatch, ACCURACY | {"concat": 0.5})["targets"]  # type: ignore[misc]
    assert (line["value"], line["met"]) == (0.25, False)


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(
        LorafuseError, match="bench grid: lorafuse run --suites nowhere ... failed: .*nowhere"
    ):
        grid._timed(["lorafuse", "run", "--suites", "nowhere"])
