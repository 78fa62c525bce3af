"""`bench grid`: the commands that are timed, and a report of ratios of one round, of sides that agree."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from toy_cells import write

from lorafuse_bench.bench import grid
from lorafuse_bench.bench.grid import Took
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results.samples import Sample, write_samples

SECONDS = {"lorafuse": Took(10.0, 8.0), "lm_eval": Took(30.0, 28.0)}
OURS = [" good\n", "\n bad", " good"]
STOCK = [" good", "", " good"]
"""Stock lm-eval ends an answer that opens with an empty line before its first word."""


def acted(words: Sequence[str], stock: dict[str, list[str]]) -> Took:
    """What the commands leave behind, without running them."""
    out = Path(words[words.index("--out" if words[0] == "lorafuse" else "--output_path") + 1])
    if words[0] == "lorafuse":
        for label in stock:
            path = write(out, label, {"sst2": [1.0] * len(OURS)}, suite="sst2")
            write_samples(path, [sample(i, text) for i, text in enumerate(OURS)])
        if out.name == "first":
            return Took(3.0, 2.5)
        return Took(5.0, 8.0) if "--workers" in words else SECONDS["lorafuse"]
    out.mkdir(parents=True)
    rows = [
        {"doc_id": i, "arguments": {"gen_args_0": {"arg_1": {"until": ["\n"]}}}, "filtered_resps": [text]}
        for i, text in enumerate(stock[out.name])
    ]
    (out / "samples_lorafuse_sst2_2026-01-01T00.jsonl").write_text("\n".join(map(json.dumps, rows)))
    likely = {"doc_id": 0, "arguments": {"gen_args_0": {"arg_1": " good"}}, "filtered_resps": [[-1.0, True]]}
    (out / "samples_lorafuse_sst2_options_2026-01-01T00.jsonl").write_text(json.dumps(likely))
    return SECONDS["lm_eval"]


def sample(number: int, text: str) -> Sample:
    return Sample(task="sst2", doc_id=number, doc_hash="", prompt="", target="good", output=text, score=1.0)


def report(monkeypatch: pytest.MonkeyPatch, stock: dict[str, list[str]]) -> dict[str, object]:
    monkeypatch.setattr(grid, "_timed", lambda words: acted(words, stock))
    return grid.run(grid.Asked("base,concat", "sst2", 4, engines=("local", "ray")))


def test_ratios_are_of_all_commands_of_a_side(monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(monkeypatch, {"base": STOCK, "concat": STOCK})
    values = {line["what"]: (line["value"], line["met"]) for line in found["targets"]}  # type: ignore[attr-defined]
    assert values == {
        "stock hf loop over lorafuse run": (6.0, True),
        "the same in processor seconds": (7.0, True),
        "seconds of a run of one item": (3.0, True),
        "one worker over 2 local workers": (2.0, True),
        "one worker over 2 ray workers": (2.0, True),
        "share of answers that differ": (0.0, True),
    }
    assert found["asked"]["methods"] == "base,concat" and found["differing"] == 0  # type: ignore[index]


def test_without_the_loop_workers_are_compared_alone_over_any_method(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        grid, "_timed", lambda words: acted(words, {} if words[0] == "lorafuse" else {"no": []})
    )
    found = grid.run(grid.Asked("arrow", "sst2", 4, engines=("local",), loop=False))
    values = {line["what"]: line["value"] for line in found["targets"]}
    assert values == {"seconds of a run of one item": 3.0, "one worker over 2 local workers": 2.0}
    assert list(found["rounds"][0]) == ["first", "one", "local"]


def test_both_sides_are_asked_the_same(tmp_path: Path) -> None:
    asked = grid.Asked("base", "sst2", 4, zoo="z", data="d", batch_size=8)
    ours, stock = asked.ours("base", "sst2", asked.cut, tmp_path), asked.stock("pretrained=b", tmp_path)
    for option, value in {"--limit": "4", "--device": "cpu"}.items():
        assert ours[ours.index(option) + 1] == stock[stock.index(option) + 1] == value
    assert ours[ours.index("--batch-size") + 1] == stock[stock.index("--batch_size") + 1] == "8"
    assert json.loads(stock[stock.index("--metadata") + 1]) == {"zoo": "z", "data": "d"}
    assert (ours[ours.index("--zoo") + 1], ours[ours.index("--data") + 1]) == ("z", "d")
    assert int(ours[ours.index("--max-length") + 1]) >= 1_000_000  # the zoo's own would cut prompts


def test_sides_whose_answers_differ_are_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    targets: Any = report(monkeypatch, {"base": STOCK, "concat": [" bad", *STOCK[1:]]})["targets"]
    line = targets[-1]
    assert (line["value"], line["met"]) == (pytest.approx(1 / 6), False)


def test_a_command_that_fails_is_named() -> None:
    with pytest.raises(
        LorafuseError, match="bench grid: lorafuse run --suites nowhere ... failed: .*nowhere"
    ):
        grid._timed(["lorafuse", "run", "--suites", "nowhere"])
