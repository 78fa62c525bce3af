"""Is a method no worse than it was? Item by item against a baseline, with a margin that is agreed on beforehand."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError
from scipy.stats import binom, norm

from lorafuse_bench.errors import LorafuseError, first_problem
from lorafuse_bench.files import strict_json, write_json
from lorafuse_bench.leaderboards.boards import alike
from lorafuse_bench.leaderboards.boards.collect import Cell, fill_statistics, read, result_files
from lorafuse_bench.leaderboards.boards.paired import TIE, result_of
from lorafuse_bench.leaderboards.results.made_of import Strict
from lorafuse_bench.leaderboards.results.reading import read_json
from lorafuse_bench.leaderboards.results.samples import item_scores
from lorafuse_bench.leaderboards.statistics import rank_intervals

Outcome = Literal["no worse", "worse", "not shown", "too few items"]


class Baseline(Strict):
    """A baseline's file: whose results are the yardstick, and how much worse is still no worse."""

    results: str = Field(description="Folder of results, relative to this file.")
    margin: float = Field(gt=0, lt=1, description="Loss of a task's score that is still no worse.")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Level of the tests, over all tasks.")
    n: dict[str, int] = Field(description="Task to the number of items that the margin was chosen for.")


@dataclass(frozen=True)
class TaskRegression:
    """One task: items scored better and worse than before, and what follows.

    `p_worse`: exact McNemar, one-sided, that as many items or more got worse by chance (1 without a change).
    `p_margin`: that the score fell by the margin or more, corrected by Holm over the tasks.
    """

    task: str
    n: int
    better: int
    worse: int
    difference: float
    p_worse: float
    p_margin: float
    outcome: Outcome


def compare_with_baseline(
    results: str | Path, label: str, baseline: str | Path
) -> tuple[TaskRegression, ...]:
    """Each task's verdict on the results of a method against its baseline's.

    LorafuseError where the two were not measured alike, or the baseline does not know a task or its number of items.
    """
    said = _read_baseline(Path(baseline))
    known: dict[str, tuple[str, ...]] = {}
    before = read(result_of(Path(baseline).parent / said.results, label), known)
    after = read(result_of(results, label), known)
    alike.check_pair(after, before)
    fill_statistics([after, before])
    keys = [key for key in after.result.tasks if key in before.result.tasks]
    for key in keys:
        if said.n.get(key) != after.result.tasks[key].n:
            raise LorafuseError(
                f"{baseline}: the margin was chosen for {said.n.get(key, 'no')} items of '{key}', the results have"
                f" {after.result.tasks[key].n}. Measure on the same items, or write the baseline again."
            )
    return judged([gains_of(after, before, key) for key in keys], keys, said.margin, said.alpha)


def _read_baseline(path: Path) -> Baseline:
    advice = "Write it again with --update-baseline."
    try:
        return Baseline.model_validate(read_json(path, advice, strict_json))
    except ValidationError as error:
        raise LorafuseError(f"{path}: {first_problem(error)}. {advice}") from error


def write_baseline(results: str | Path, baseline: str | Path, margin: float) -> Path:
    """Make the results in a folder the yardstick of a baseline's file.

    LorafuseError where the folder's repository has changes that are not committed: nobody could tell what made them.
    """
    changed = _uncommitted(Path(baseline).absolute().parent)
    if changed:
        raise LorafuseError(
            f"{baseline} is not written: {changed} is not committed. Commit it first, so that the change can be seen."
        )
    n: dict[str, int] = {}
    for file in result_files([results]):
        n |= {key: task.n for key, task in read(file, {}).result.tasks.items()}
    place = os.path.relpath(Path(results).absolute(), Path(baseline).absolute().parent)
    made = Baseline(results=Path(place).as_posix(), margin=margin, n=dict(sorted(n.items())))
    write_json(Path(baseline), made.model_dump())
    return Path(baseline)


def _uncommitted(folder: Path) -> str:
    """A file with uncommitted changes in the repository that holds a folder; empty if there is none."""
    git = ["git", "-C", str(folder), "status", "--porcelain"]
    done = subprocess.run(git, capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0][3:] if done.returncode == 0 and done.stdout else ""


def gains_of(after: Cell, before: Cell, key: str) -> np.ndarray:
    """`(n,)`: by how much each item is scored better than before."""
    task = after.result.tasks[key]
    sign = 1 if task.metrics[task.representative].direction == "up" else -1
    x, y = after.representative(key), before.representative(key)
    return sign * (item_scores(x.items, x.measure) - item_scores(y.items, y.measure))


def judged(
    gains: Sequence[np.ndarray], tasks: Sequence[str], margin: float, alpha: float
) -> tuple[TaskRegression, ...]:
    """The verdicts of all tasks, Holm's correction over them."""
    found = [_task(task, gain, margin) for task, gain in zip(tasks, gains, strict=True)]
    corrected = rank_intervals.holm(np.array([one.p_margin for one in found]))
    worse = rank_intervals.holm(np.array([one.p_worse for one in found]))
    needed = items_needed(margin, alpha / max(1, len(found)))
    return tuple(
        replace(one, p_margin=float(p), outcome=_outcome(one.n >= needed, p < alpha, q < alpha))
        for one, p, q in zip(found, corrected, worse, strict=True)
    )


def items_needed(margin: float, alpha: float) -> int:
    """The fewest items that can show a score no worse by `margin`, where not one of them changes."""
    return math.ceil(norm.isf(alpha) ** 2 * (1 - margin) / margin)


def _task(task: str, gain: np.ndarray, margin: float) -> TaskRegression:
    better, worse = int((gain > TIE).sum()), int((gain < -TIE).sum())
    binary = bool(np.isin(np.abs(gain), (0, 1)).all())
    z = paired_score(better, worse, len(gain), margin) if binary else _paired_mean(gain, margin)
    return TaskRegression(
        task=task,
        n=len(gain),
        better=better,
        worse=worse,
        difference=float(gain.mean()),
        p_worse=float(binom.sf(worse - 1, better + worse, 0.5)),
        p_margin=float(norm.sf(z)),
        outcome="not shown",
    )


def paired_score(better: int, worse: int, n: int, margin: float) -> float:
    """Tango's score statistic of `share better - share worse = -margin` for paired items that are right or wrong.

    Its variance is that under the hypothesis, so that it stays sound where few items change, or none.
    Source: Tango 1998, Statistics in Medicine 17, 891-908, section 3.
    """
    linear = -better - worse - (2 * n - better + worse) * margin
    constant = worse * margin * (1 + margin)
    q = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)  # share worse, most likely so
    variance = n * (2 * q - margin * (1 + margin))
    return (better - worse + n * margin) / math.sqrt(max(variance, 1e-12))


def _paired_mean(gain: np.ndarray, margin: float) -> float:
    """The z of `mean gain = -margin` for graded items; its error is at least that of items which might still change."""
    least = math.sqrt(margin * (1 - margin) / len(gain))
    error = float(gain.std(ddof=1)) / math.sqrt(len(gain)) if len(gain) > 1 else least
    return (float(gain.mean()) + margin) / max(error, least)


def _outcome(enough: bool, within: bool, worse: bool) -> Outcome:
    if not enough:
        return "too few items"
    if within:
        return "no worse"
    return "worse" if worse else "not shown"
