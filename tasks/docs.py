"""From a document to what the model should say, where that is free text: one line for each task.

Prompts are Jinja in the YAMLs. Targets are functions, because lm-eval reads a rendered target that
looks like `[1]` as a Python list. Labels need no function: see `label`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from datasets import Dataset

Doc = dict[str, Any]
END = "\x03"
"""Ends a target whose end of text is scored too; a model of ours puts its own token there."""


def target_to_the_end(doc: Doc) -> str:
    """The column `target` after a space, with its end; as a log-likelihood's target it has no other delimiter."""
    return f" {str(doc['target']).strip()}{END}"


def one_line(value: object) -> str:
    """Every run of white space as one space: generation stops at a newline, so no target holds one."""
    return " ".join(str(value).split())


def summary(doc: Doc) -> str:
    """The highlights of an article, joined."""
    return one_line(doc["highlights"])


def german(doc: Doc) -> str:
    """The German side of a sentence pair."""
    return one_line(doc["translation"]["de"])


def answer(doc: Doc) -> str:
    """The first reference answer; scoring takes the best over all of them."""
    return one_line(doc["answers"]["text"][0])


def paraphrase(doc: Doc) -> str:
    """The second sentence of a pair that is a paraphrase."""
    return one_line(doc["sentence2"])


def reasoning(doc: Doc) -> str:
    """The worked solution, calculator annotations and final `#### n` included."""
    return one_line(doc["answer"])


def paraphrases(docs: Dataset) -> Dataset:
    """PAWS rows whose sentences do mean the same (label 1)."""
    return docs.select([row for row, label in enumerate(docs["label"]) if label == 1])


def dialogues(docs: Dataset) -> Dataset:
    """Dialogues with at least one assistant reply that answers something."""
    return docs.select([row for row, turns in enumerate(docs["conversations"]) if _replies(turns)])


def dialogue_prompt(doc: Doc) -> str:
    """Everything said before the scored reply, one line a turn, then the cue `Assistant:`."""
    turns = doc["conversations"][: _middle_reply(doc)]
    speakers = {"human": "User", "gpt": "Assistant"}
    history = "".join(f"{speakers.get(turn['from'], 'User')}: {one_line(turn['value'])}\n" for turn in turns)
    return f"Dialogue:\n{history}Assistant:"


def dialogue_reply(doc: Doc) -> str:
    """The scored reply, with the space that lm-eval adds to no plain log-likelihood target."""
    return " " + one_line(doc["conversations"][_middle_reply(doc)]["value"])


def _middle_reply(doc: Doc) -> int:
    """Index of the middle assistant reply: the last one is nearly always a farewell."""
    replies = _replies(doc["conversations"])
    return replies[len(replies) // 2]


def _replies(turns: Sequence[dict[str, str]]) -> list[int]:
    return [index for index, turn in enumerate(turns) if index > 0 and turn["from"] == "gpt"]


def gpqa_options(docs: Dataset) -> Dataset:
    """GPQA's four answers as options in an order drawn from the question alone: the same in every run."""
    return Dataset.from_list([{**doc, **_options(doc)} for doc in docs])


def _options(doc: Doc) -> dict[str, str]:
    from lm_eval.tasks.gpqa.zeroshot.utils import preprocess

    names = ("Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")
    answers = [(preprocess(doc[name]), name) for name in names]
    random.Random(f"lorafuse gpqa {doc['Question']}").shuffle(answers)
    right = [name for _, name in answers].index("Correct Answer")
    options = {f"choice{i}": text for i, (text, _) in enumerate(answers, start=1)}
    return {**options, "answer": f"({'ABCD'[right]})"}


def mbpp_examples(docs: Dataset) -> list[Doc]:
    """The three rows of MBPP's prompt split that its authors show, marked as lm-eval's prompt expects."""
    return [{**doc, "is_fewshot": True} for doc in docs if doc["task_id"] in (2, 3, 4)]
