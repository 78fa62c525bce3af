"""The README.md of an exported model: what it was made of, by which method, and what it scored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.leaderboards.boards.board import Board, Leaderboard, Row, Score, read_leaderboard
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.text import number
from lorafuse_bench.leaderboards.statistics.stats import Z95


@dataclass(frozen=True)
class Made:
    """What an exported model is; `base` is its base's hub id, None where the hub has none."""

    title: str
    kind: str
    zoo_name: str
    zoo_sha256: str
    base_name: str
    base: str | None
    experts: Mapping[str, str]
    dtype: str
    method: str | None = None
    options: Mapping[str, Any] | None = None


def read_scores(results: Sequence[Path]) -> Leaderboard | None:
    """The boards of result folders, or of a leaderboard.json; None where none are given."""
    if not results:
        return None
    if len(results) == 1 and results[0].is_file():
        return read_leaderboard(results[0])
    return build(results, allow_limit=True)


def model_card(made: Made, scores: Leaderboard | None) -> str:
    """The card. LorafuseError where `scores` are not of this method, zoo and experts."""
    lines = [*_head(made), f"# {made.title}", ""]
    what = "PEFT adapter" if made.kind == "adapter" else "whole model"
    by = f"the merge `{made.method}`" if made.method else "one expert, with its scaling folded in"
    lines += [f"A {what} in {made.dtype}: {by} of LoRA experts on {made.base_name}, by LoRA-Fuse Bench.", ""]
    lines += [f"- zoo: {made.zoo_name}, sha256 `{made.zoo_sha256}`"]
    lines += [f"- expert {name}: sha256 `{sha256}`" for name, sha256 in made.experts.items()]
    lines += [f"- option {key}: `{value}`" for key, value in (made.options or {}).items()]
    lines += ["", *_scores(made, scores)]
    return "\n".join(lines).rstrip() + "\n"


def _head(made: Made) -> list[str]:
    base = [f"base_model: {made.base}"] if made.base else []
    library = "peft" if made.kind == "adapter" else "transformers"
    return ["---", f"library_name: {library}", "tags: [lora, lorafuse-bench]", *base, "---", ""]


def _scores(made: Made, scores: Leaderboard | None) -> Iterator[str]:
    if scores is None:
        yield "Scores were not given to this card."
        return
    for board in _boards(made, scores):
        known = {row.label: row for row in board.rows if row.origin == "measured"}
        if made.method not in known:
            raise unknown("method", str(made.method), known, "among the scores")
        yield from _table(board, known[str(made.method)])


def _boards(made: Made, scores: Leaderboard) -> list[Board]:
    """The boards of this zoo and these experts."""
    of_zoo = [b for b in scores.boards if any(r.sha256 == made.zoo_sha256 for r in b.replicates)]
    if not of_zoo:
        raise LorafuseError(
            f"the scores are not of zoo '{made.zoo_name}' as it is now. Run them again with `lorafuse run`."
        )
    same = [b for b in of_zoo if all(set(r.experts) == set(made.experts) for r in b.replicates)]
    if not same:
        theirs = ",".join(of_zoo[0].replicates[0].experts)
        raise LorafuseError(
            f"the scores are of other experts than are exported. Export those: --experts {theirs}"
        )
    return same


def _table(board: Board, row: Row) -> Iterator[str]:
    yield f"## {board.suite}"
    yield ""
    yield "| task | metric | score, 95% interval | over the oracle, 95% interval | items |"
    yield "|---|---|---|---|---|"
    for column in board.columns:
        held = row.tasks.get(column.task)
        raw = held.metrics.get(column.metric) if held else None
        over = held.normalised if held else None
        yield f"| {column.task} | {column.metric} | {_interval(raw)} | {_interval(over)} | {column.n} |"
    yield ""
    if row.ability is not None:
        yield f"Ability, the mean over the oracle's scores: {_interval(row.ability)}."
    yield f"{board.caption} Data: {board.provenance.data}; computed in {board.provenance.dtype}."
    yield ""


def _interval(score: Score | None) -> str:
    """`0.512 (0.480 to 0.544)`."""
    if score is None:
        return "–"
    if score.se is None:
        return number(score.value)
    half = Z95 * score.se
    return f"{number(score.value)} ({number(score.value - half)} to {number(score.value + half)})"
