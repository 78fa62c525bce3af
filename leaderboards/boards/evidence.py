"""What a page shows beyond the board: recovered gaps, pairs of methods, and, of our own texts, samples."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.boards.board import Board, Leaderboard, Score
from lorafuse_bench.leaderboards.boards.builder import over_seeds
from lorafuse_bench.leaderboards.boards.collect import BASE, Group
from lorafuse_bench.leaderboards.boards.pairs import Pairs, ability_pairs, task_pairs
from lorafuse_bench.leaderboards.results.samples import Item, read_samples, samples_path, side_by_side
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.leaderboards.statistics.stats import Estimate

OWN_TEXTS = "mini"  # the data source whose documents are this package's own
DOCUMENTS, LETTERS = 12, 500  # of each task, of each text: the most that a page embeds


@dataclass(frozen=True)
class SampleSet:
    """Documents with every method's answers, of one seed, by task; `totals` counts all there are."""

    seed: int
    tasks: dict[str, tuple[Item, ...]]
    totals: dict[str, int]


@dataclass(frozen=True)
class Evidence:
    """Of one board. The gaps: label -> task -> score, and label -> mean over counted tasks."""

    gaps: dict[str, dict[str, Score]]
    gap_means: dict[str, Score]
    pairs: dict[str, Pairs]
    ability: Pairs | None
    samples: SampleSet | None = None


def evidence_of(groups: Iterable[Group], leaderboard: Leaderboard) -> list[Evidence]:
    """The evidence of every board, from the cells that it was built of."""
    by_name = {(group.suite, group.zoo): group for group in groups}
    return [_evidence(by_name[board.suite, board.zoo], board) for board in leaderboard.boards]


def _evidence(group: Group, board: Board) -> Evidence:
    gaps, means = _gaps(group, board)
    return Evidence(
        gaps=gaps,
        gap_means=means,
        pairs={key: task_pairs(group, key) for key in group.tasks},
        ability=ability_pairs(group, board),
        samples=_samples(group) if board.provenance.data == OWN_TEXTS else None,
    )


def _gaps(group: Group, board: Board) -> tuple[dict[str, dict[str, Score]], dict[str, Score]]:
    """Recovered gaps of all counted tasks, and their means where the method has them all."""
    counted = [column.task for column in board.columns if column.counts]
    gaps: dict[str, dict[str, dict[int, Estimate]]] = {}
    for seed, members in sorted(group.cells.items()):
        for label, cell in members.items():
            for key in (key for key in counted if key in cell.result.tasks):
                trio = (some.representative(key) for some in (cell, members[BASE], members[group.oracle]))
                gaps.setdefault(label, {}).setdefault(key, {})[seed] = stats.recovered_gap(*trio)
    means = {
        label: over_seeds(
            {seed: stats.mean_of([held[seed] for held in tasks.values()]) for seed in group.cells}
        )
        for label, tasks in gaps.items()
        if len(tasks) == len(counted) and all(held.keys() == group.cells.keys() for held in tasks.values())
    }
    scores = {label: {key: over_seeds(held) for key, held in tasks.items()} for label, tasks in gaps.items()}
    return scores, means


def _samples(group: Group) -> SampleSet | None:
    """Samples of the first seed whose methods kept them."""
    for seed, members in sorted(group.cells.items()):
        kept = {
            label: read_samples(cell.path)
            for label, cell in sorted(members.items())
            if samples_path(cell.path).is_file()
        }
        if kept:
            items = {key: side_by_side(kept, key) for key in group.tasks}
            return SampleSet(
                seed=seed,
                tasks={key: tuple(found[:DOCUMENTS]) for key, found in items.items() if found},
                totals={key: len(found) for key, found in items.items()},
            )
    return None


def as_json(board: Board, evidence: Evidence) -> dict[str, Any]:
    """The evidence as the page embeds it. LorafuseError for samples of data that is not the package's own."""
    if evidence.samples is not None and board.provenance.data != OWN_TEXTS:
        raise LorafuseError(
            f"{board.suite} on {board.zoo}: samples of data '{board.provenance.data}' must not be published;"
            f" a page holds only those of '{OWN_TEXTS}'. Build the page without them."
        )
    return {
        "gaps": {
            label: {key: score.model_dump(mode="json") for key, score in tasks.items()}
            for label, tasks in evidence.gaps.items()
        },
        "gap_means": {label: score.model_dump(mode="json") for label, score in evidence.gap_means.items()},
        "pairs": {
            "tasks": {key: _pairs_json(pairs) for key, pairs in evidence.pairs.items()},
            "ability": _pairs_json(evidence.ability) if evidence.ability else None,
        },
        "samples": _samples_json(evidence.samples) if evidence.samples else None,
    }


def _pairs_json(pairs: Pairs) -> dict[str, Any]:
    """The errors' lower triangle, to four digits; null where unknown."""
    return {
        "labels": pairs.labels,
        "se": [[_short(pairs.se[i, j]) for j in range(i + 1)] for i in range(len(pairs.labels))],
        "items": pairs.items,
        "better": None if pairs.better is None else pairs.better.tolist(),
    }


def _short(value: float) -> float | None:
    return None if math.isnan(value) else float(f"{value:.4g}")


def _samples_json(samples: SampleSet) -> dict[str, Any]:
    return {
        "seed": samples.seed,
        "tasks": {
            key: {"total": samples.totals[key], "items": [_cut(asdict(item)) for item in items]}
            for key, items in samples.tasks.items()
        },
    }


def _cut(value: Any) -> Any:
    """Long texts end in an ellipsis; scores have four digits."""
    if isinstance(value, str):
        return value if len(value) <= LETTERS else value[:LETTERS] + "…"
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _cut(inner) for key, inner in value.items()}
    return [_cut(inner) for inner in value] if isinstance(value, tuple | list) else value
