"""A null of a row reaches no prompt, answer or option of any task, and is let be where nothing shows it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval.api.task import ConfigurableTask

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.nulls import refuse_nulls

NAN = float("nan")


class Stub(ConfigurableTask):
    """A task of lm-eval's with templates and no rows."""

    def __init__(self, **config: Any) -> None:
        fixed = {
            "target_delimiter": " ",
            "doc_to_target": "{{answer}}",
            "doc_to_choice": None,
            "task": "stub",
        }
        self._config = SimpleNamespace(**(fixed | config))
        self.features: list[str] = []
        self.prompt = None


def stub(**config: Any) -> Any:
    task = Stub(**config)
    refuse_nulls(task)
    refuse_nulls(task)
    return task


def by_function(doc: dict[str, Any]) -> str:
    return f"Q: {doc['question']}"


SHOWN = [
    ({"doc_to_text": "Q: {{question}}"}, {"question": None}),
    ({"doc_to_text": "Q: {{question}}"}, {"question": NAN}),
    ({"doc_to_text": "{{question|upper}} None of these"}, {"question": None}),
    ({"doc_to_text": by_function}, {"question": None}),
    ({"doc_to_text": "{{question.text}}"}, {"question": {"text": None}}),
    ({"doc_to_text": "{{question|join('/')}}"}, {"question": ["a", None]}),
    ({"doc_to_text": "{{question}}"}, {"question": ["a", None]}),
    ({"doc_to_text": "'{{question}}'"}, {"question": None}),
]
NOT_SHOWN = [
    ({"doc_to_text": "Q: {{question}} None of these"}, {"question": "a", "hint": None}),
    ({"doc_to_text": "{% if question %}{{question}}{% endif %}None"}, {"question": None}),
    ({"doc_to_text": "{{question or ''}}None"}, {"question": None}),
    ({"doc_to_text": "{{question}}"}, {"question": "None"}),
    (
        {"doc_to_text": lambda doc: "None" if doc["question"] is None else doc["question"]},
        {"question": ["a"]},
    ),
    ({"doc_to_text": lambda doc: str(sum(x or 0 for x in doc["question"]))}, {"question": [1, None]}),
]


@pytest.mark.parametrize(("config", "doc"), SHOWN)
def test_a_null_that_is_shown_is_refused(config: dict[str, Any], doc: dict[str, Any]) -> None:
    with pytest.raises(LorafuseError, match="task 'stub': column 'question' is null in a row"):
        stub(**config).doc_to_text(doc)


@pytest.mark.parametrize(("config", "doc"), NOT_SHOWN)
def test_a_null_that_is_not_shown_is_let_be(config: dict[str, Any], doc: dict[str, Any]) -> None:
    assert stub(**config).doc_to_text(doc) == Stub(**config).doc_to_text(doc)


def test_answers_and_options_are_held_to_it_too() -> None:
    task = stub(doc_to_text="", doc_to_choice="{{[a, b]}}")
    assert task.doc_to_choice({"a": "x", "b": "y", "c": None}) == ["x", "y"]
    with pytest.raises(LorafuseError, match="column 'b' is null"):
        task.doc_to_choice({"a": "x", "b": None})
    with pytest.raises(LorafuseError, match="column 'answer' is null"):
        task.doc_to_target({"answer": None})
