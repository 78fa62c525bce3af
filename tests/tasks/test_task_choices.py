"""A row whose answer is none of its choices is refused before it is asked; lm-eval would score it all the same."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.task import ConfigurableTask

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.answers import refuse_strays
from lorafuse_bench.tasks.rows import Rendered


class Stub(ConfigurableTask):
    """A task of lm-eval's with templates and no rows; what it asks is the document."""

    def __init__(self, written: bool = False, **config: Any) -> None:
        fixed = {
            "task": "stub",
            "process_results": None,
            "doc_to_choice": ["no", "yes"],
            "doc_to_text": "{{q}}",
        }
        self._config = SimpleNamespace(**(fixed | {"doc_to_target": "label"} | config))
        self.features, self.prompt, self.multiple_input = ["label"], None, 0
        self.OUTPUT_TYPE = "generate_until" if written else "multiple_choice"

    def construct_requests(self, doc: Any, ctx: Any, **options: Any) -> Any:
        return doc


def asked(doc: dict[str, Any], **config: Any) -> Any:
    task: Any = Stub(**config)
    refuse_strays(task)
    refuse_strays(task)
    return task.construct_requests(doc, "")


@pytest.mark.parametrize("label", [0, 1, 1.0, "no", "yes", [0, 1]])
def test_a_choice_is_an_answer_by_its_place_or_its_words(label: object) -> None:
    assert asked({"label": label}) == {"label": label}


@pytest.mark.parametrize("label", [-1, 2, 0.5, "Yes", "maybe", " no", [0, 2], [0, -1]])
def test_any_other_answer_is_refused(label: object) -> None:
    with pytest.raises(
        LorafuseError, match="task 'stub': the answer of a row is .*none of its 2 choices: 'no', 'yes'"
    ):
        asked({"label": label})


@pytest.mark.parametrize("label", [-1, "no", [0]])
def test_where_the_answer_is_written_lm_eval_takes_a_place_alone(label: object) -> None:
    assert asked({"label": 1}, written=True) == {"label": 1}
    with pytest.raises(LorafuseError, match="counted from 0; use a split"):
        asked({"label": label}, written=True)


def test_a_column_that_is_not_there_is_no_answer() -> None:
    """lm-eval takes the name of a column that it does not know for the answer itself."""
    with pytest.raises(LorafuseError, match="the answer of a row is 'lable'"):
        asked({"label": 1}, doc_to_target="lable")


@pytest.mark.parametrize("config", [{"process_results": lambda doc, results: {}}, {"doc_to_choice": None}])
def test_a_task_that_scores_by_itself_or_has_no_choices_is_let_be(config: dict[str, Any]) -> None:
    assert asked({"label": -1}, **config) == {"label": -1}


@pytest.mark.parametrize("label", [-1, 2])
def test_nobody_learns_from_a_row_without_a_right_answer(label: int) -> None:
    """-1 would be the last choice."""
    with pytest.raises(LorafuseError, match=f"the answer of a row is {label}, none of its 2 choices"):
        Rendered(Stub(), [{"label": label}])[0]


@pytest.mark.parametrize("label", [-1, 2])
def test_no_example_shows_a_choice_for_an_answer_that_is_none(label: int) -> None:
    """-1 would show the last choice; lm-eval reads the answer itself where it is words."""
    task: Any = Stub()
    refuse_strays(task)
    choices = ["no", "yes"]
    shown = [task.build_qa_turn(q="Is it?", c=choices, a=answer)[-1].content for answer in (0, 1, "yes")]
    assert shown == ["no", "yes", "yes"] and len(task.build_qa_turn(q="Is it?", c=choices)) == 1
    with pytest.raises(
        LorafuseError, match=rf"the answer of an example \(--num_fewshot\) is {label}, none of"
    ):
        task.build_qa_turn(q="Is it?", c=choices, a=label)


def test_prompts_that_are_choices_say_by_their_text_which_is_right() -> None:
    task: Any = Stub(doc_to_text="label", doc_to_target="the end")
    task.multiple_input = 2
    refuse_strays(task)
    assert task.construct_requests({"label": 1}, "") == {"label": 1}
    with pytest.raises(LorafuseError, match="the answer of a row is 2"):
        task.construct_requests({"label": 2}, "")
