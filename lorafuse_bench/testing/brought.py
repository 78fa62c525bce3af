"""Checks of tasks and zoos that people bring: read them and say what is wrong."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.registry import is_higher_better

from lorafuse_bench import artefacts
from lorafuse_bench.base_model import check_fit
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import ADAPTER_WEIGHTS
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.facts import Suite
from lorafuse_bench.tasks.loading import load_tasks
from lorafuse_bench.tasks.suites import suite, task
from lorafuse_bench.testing.check import Check, Verdict
from lorafuse_bench.testing.subject import DoesNotApplyError
from lorafuse_bench.zoo.manifest import Zoo

ROWS = 200
"""Rows of a split that are looked at."""

_LEAK = 0.5
"""Share of the prompts that may hold the right answer's text and no other answer's."""


def check_task(path: str | Path, data: str | None = None) -> list[Verdict]:
    """Verdicts on the tasks of a task's or suite's YAML, with rows from `data` (see `resolve_source`)."""
    try:
        loaded = load_tasks(_suite(Path(path)), resolve_source(data))
    except LorafuseError as error:
        return [Verdict("it_loads", "failed", str(error))]
    found = [Verdict("it_loads", "passed")]
    for name, one in loaded.items():
        found += [_verdict(f"{name}: {check.__name__}", check, one) for check in TASK_CHECKS]
    return found


def _suite(path: Path) -> Suite:
    """The suite of a YAML file; of a task's file, that task alone."""
    name = catalogue.read(path).get("task")
    if not isinstance(name, str):
        return suite(str(path))
    catalogue.include([path.parent])
    found = catalogue.find(name)
    if found is not None and not found.path.samefile(path):
        raise LorafuseError(
            f"{path}: task '{name}' is defined by {found.path} too, which is read. Rename one."
        )
    return suite(name)


def _verdict(name: str, check: Callable[[Any], None], subject: Any) -> Verdict:
    return Check(name, (check.__doc__ or "").partition("\n")[0], check).verdict_on(subject)


def prompts_are_rendered(task: Any) -> None:
    """No prompt is empty or shows a template's braces."""
    for i, doc in enumerate(_docs(task)):
        text = task.doc_to_text(doc)
        if isinstance(text, int):  # the prompts are the choices of one continuation
            raise DoesNotApplyError("its prompts are choices")
        assert text.strip(), f"the prompt of row {i} is empty"
        assert "{{" not in text, f"the prompt of row {i} shows its template: {text[:60]!r}"


def targets_are_answers(task: Any) -> None:
    """Every row has an answer, one of its choices where it has some."""
    for i, doc in enumerate(_docs(task)):
        target, choices = _target(task, doc).strip(), _choices(task, doc)
        assert target, f"row {i} has no answer"
        assert not choices or target in choices, f"the answer of row {i}, {target!r}, is none of its choices"


def labels_do_not_leak(task: Any) -> None:
    """Prompts do not hold the right answer where they hold no wrong one, and do not end in the answer."""
    rows = [(task.doc_to_text(doc), _target(task, doc).strip(), _choices(task, doc)) for doc in _docs(task)]
    texts = [(text, target, choices) for text, target, choices in rows if isinstance(text, str) and target]
    ended = sum(text.rstrip().endswith(target) for text, target, _ in texts)
    assert ended <= _LEAK * len(texts), f"{ended} of {len(texts)} prompts end in their answer"
    listed = [(text, target, choices) for text, target, choices in texts if len(choices) > 1]
    told = sum(
        target in text and not any(other in text for other in choices if other != target)
        for text, target, choices in listed
    )
    assert told <= _LEAK * max(1, len(listed)), f"{told} of {len(listed)} prompts hold the right answer alone"


def train_and_test_do_not_overlap(task: Any) -> None:
    """No evaluated prompt is also a training prompt."""
    if not task.has_training_docs():
        raise DoesNotApplyError("it has no training split")
    trained = {_hash(task.doc_to_text(doc)) for doc in task.training_docs()}
    both = sum(_hash(task.doc_to_text(doc)) in trained for doc in task.eval_docs)
    assert not both, f"{both} of {len(task.eval_docs)} evaluated prompts are among those to train on"


def metrics_point_their_way(task: Any) -> None:
    """Where lm-eval says whether more of a metric is better, the task says the same."""
    told = {name: is_higher_better(name) for name in task.higher_is_better()}
    wrong = [name for name, up in task.higher_is_better().items() if told[name] not in (None, up)]
    assert not wrong, f"higher_is_better of {', '.join(wrong)} is the wrong way round"


TASK_CHECKS = (
    metrics_point_their_way,
    prompts_are_rendered,
    targets_are_answers,
    labels_do_not_leak,
    train_and_test_do_not_overlap,
)


def _docs(task: Any) -> Iterator[Mapping[str, Any]]:
    yield from (doc for _, doc in zip(range(ROWS), task.eval_docs, strict=False))


def _choices(task: Any, doc: Mapping[str, Any]) -> Sequence[str]:
    listed = task.config.doc_to_choice is not None
    return [str(choice).strip() for choice in task.doc_to_choice(doc)] if listed else ()


def _target(task: Any, doc: Mapping[str, Any]) -> str:
    target = task.doc_to_target(doc)
    if isinstance(target, list):
        target = target[0] if target else ""
    choices = _choices(task, doc)
    return choices[target] if isinstance(target, int) and choices else str(target)


def _hash(text: Any) -> bytes:
    return hashlib.sha256(str(text).encode()).digest()


def check_zoo(folder: str | Path, results: Sequence[str | Path] = ()) -> list[Verdict]:
    """Verdicts on a zoo; `results` of `base` and `oracle` tell whether its experts are worth fusing."""
    try:
        zoo = Zoo.open(folder)
    except LorafuseError as error:
        return [Verdict("it_opens", "failed", str(error))]
    checks = (files_are_whole, experts_are_of_this_base, tasks_have_one_expert)
    found = [_verdict(check.__name__, check, zoo) for check in checks]

    def the_oracle_is_above_the_base(_: Zoo) -> None:
        if not results:
            raise DoesNotApplyError(
                "no results given: run base and oracle on it, and name their folder (--results)"
            )
        for board in build(results, allow_limit=True).boards:
            below = [f"{column.task} ({column.reason})" for column in board.columns if not column.counts]
            assert not below, f"suite {board.suite} does not count {', '.join(below)}"

    return [*found, _verdict("the_oracle_is_above_the_base", the_oracle_is_above_the_base, zoo)]


def files_are_whole(zoo: Zoo) -> None:
    """Every file that the manifest names is there, has the hash it says, and holds finite numbers."""
    zoo.check_whole().base_folder()
    ExpertPool.from_zoo(zoo)
    for entry in zoo.manifest.artefacts:
        artefacts.load(zoo, entry)
    for adapter in zoo.manifest.adapters:
        path = zoo.root / adapter.path / ADAPTER_WEIGHTS
        artefacts.read_tensors(path, adapter.sha256, f"adapter '{adapter.name}'", "Train it again.")


def experts_are_of_this_base(zoo: Zoo) -> None:
    """Every module that an expert adapts is in the base, of its shape."""
    check_fit(zoo.base_folder(), ExpertPool.from_zoo(zoo))


def tasks_have_one_expert(zoo: Zoo) -> None:
    """Every task of the experts is known, and has one expert of its own."""
    served: dict[str, str] = {}
    for entry in zoo.manifest.experts:
        for key in entry.tasks:
            task(key)
            if entry.bank != "private":
                continue
            assert key not in served, f"'{served[key]}' and '{entry.name}' both serve task '{key}'"
            served[key] = entry.name
