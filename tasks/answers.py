"""A row's answer among its choices: where it is none of them lm-eval scores the row wrong, or takes the last choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.task import ConfigurableTask

from lorafuse_bench.errors import LorafuseError


def scored_by_lm_eval(task: Any) -> bool:
    """Whether a task leaves scoring to lm-eval, and has no function of its own."""
    scores = getattr(type(task), "process_results", None)
    return scores is ConfigurableTask.process_results and not task.config.process_results


def refuse_strays(task: Any) -> None:
    """Make a task of lm-eval's refuse by `check_answer` a row before it is asked; once for each task.

    And a row that is shown as an example whose label is the place of no choice.
    """
    asks = "construct_requests"
    if not scored_by_lm_eval(task) or asks in vars(task):
        return
    construct, turn = task.construct_requests, task.build_qa_turn

    def checked(doc: Mapping[str, Any], ctx: Any, **options: Any) -> Any:
        check_answer(task, doc)
        return construct(doc, ctx, **options)

    def shown(*, c: Sequence[str] | None = None, a: Any = None, **options: Any) -> Any:
        if c and isinstance(a, int) and not _place(a, c):
            raise _stray(task, f"an example (--num_fewshot) is {a}", c)
        return turn(c=c, a=a, **options)

    setattr(task, asks, checked)
    task.build_qa_turn = shown


def check_answer(task: Any, doc: Mapping[str, Any]) -> None:
    """LorafuseError where lm-eval scores the task by its choices, and the row's answer is none of them."""
    if not scored_by_lm_eval(task) or task.config.doc_to_choice is None:
        return
    choices = task.doc_to_choice(doc)
    answer = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    compared = task.OUTPUT_TYPE == "multiple_choice"
    for each in answer if isinstance(answer, list) and compared else [answer]:
        if not (_place(each, choices) or (compared and each in choices)):
            raise _stray(task, f"a row is {each!r}", choices)


def _stray(task: Any, answer: str, choices: Sequence[str]) -> LorafuseError:
    return LorafuseError(
        f"task '{task.config.task}': the answer of {answer}, none of its {len(choices)} choices:"
        f" {', '.join(map(repr, choices))[:80]}. Let doc_to_target give a choice's place, counted from 0"
        f"{', or its words' if task.OUTPUT_TYPE == 'multiple_choice' else ''}; use a split whose labels are public."
    )


def _place(answer: Any, choices: Sequence[str]) -> bool:
    return isinstance(answer, int | float) and answer in range(len(choices))
