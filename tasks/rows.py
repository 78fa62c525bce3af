"""Training rows, rendered by the very task that evaluates: same YAML, same prompt, same target."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.answers import check_answer
from lorafuse_bench.tasks.docs import END
from lorafuse_bench.tasks.suites import suite, suites, task

TRAIN = "train"
HASHED = 500
"""Rows of a split that its hash writes at most: writing one costs what reading a hundred documents does."""
BLOCK = 1000
"""Documents that are hashed at once."""


@dataclass(frozen=True)
class Row:
    """One training example: the model reads `prompt` and learns to write `target`."""

    prompt: str
    target: str  # begins with the task's target delimiter, a space
    doc_id: int  # position in the split, after the task's own selection of rows


def training_rows(key: str, source: str, split: str = TRAIN, limit: int | None = None) -> Rendered:
    """The first `limit` rows of a task's split, as text to learn from, each rendered when it is asked for.

    `key` is a task key such as `sst2`, or a name of lm-eval's; `split` the task's own training split where `train`
    is not its name; `source` is `hub`, `mini` or a directory (see `resolve_source`).
    Raises LorafuseError for an unknown key, source, split or column, and for a task of oblivion.
    """
    name = check_trainable(key)
    if limit is not None and limit < 1:
        raise LorafuseError(f"limit {limit} is not a number of rows. Use 1 or more, or leave it out.")
    found = load_task(name, source)
    return rendered(found, (found.config.training_split or split) if split == TRAIN else split, limit)


def check_trainable(key: str) -> str:
    """lorafuse's or lm-eval's name of the task `key`; LorafuseError for an unknown one, and for one of oblivion."""
    name = task(key).task
    kinds = {each.kind for each in suites() if key in each.tasks}
    if kinds == {"oblivion"}:
        raise LorafuseError(
            f"'{key}' is for measuring what a model forgets, not for training. Name another task."
        )
    return name


class Rendered(Sequence[Row]):
    """The rows of a task's split as the task itself writes them, each written when it is asked for."""

    def __init__(self, task: Any, docs: Any) -> None:
        self.task, self.docs = task, docs

    def __len__(self) -> int:
        return len(self.docs)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        doc_id = range(len(self))[index]
        prompt, target = _asked(self.task, self.docs[doc_id])
        return Row(prompt, target, doc_id)

    def documents_sha256(self, count: int) -> str:
        """Hash over the documents of the first `count` rows, and how many they are."""
        digest = hashlib.sha256(str(count).encode())
        for first in range(0, count, BLOCK):
            digest.update(ascii(self.docs[first : min(first + BLOCK, count)]).encode())
        return digest.hexdigest()

    def sha256(self, count: int) -> str:
        """Hash over the first `count` rows: all of their documents, and what a model reads of HASHED, evenly spaced."""
        digest = hashlib.sha256(self.documents_sha256(count).encode())
        written = min(count, HASHED)
        for place in range(written):
            digest.update(ascii(_asked(self.task, self.docs[place * count // written])).encode())
        return digest.hexdigest()


def _asked(task: Any, doc: Any) -> tuple[str, str]:
    """What evaluation asks without examples, and the right answer as it would be scored.

    Of a task that asks for the likelihood of a whole text, nothing and the text.
    """
    check_answer(task, doc)
    target = task.doc_to_target(doc)
    if task.OUTPUT_TYPE == "loglikelihood_rolling":
        return "", str(target)
    prompt = task.fewshot_context(doc, 0, gen_prefix=task.doc_to_prefix(doc))
    if task.multiple_input:  # the choices are prompts, and the text is the position of the right one
        prompt = prompt[task.doc_to_text(doc)]
    if isinstance(target, list):
        target = target[0]
    if isinstance(target, int) and task.config.doc_to_choice is not None:
        target = task.doc_to_choice(doc)[target]
    target = target.removesuffix(END) if isinstance(target, str) else target
    return prompt, f"{'' if task.OUTPUT_TYPE == 'loglikelihood' else task.config.target_delimiter}{target}"


def rendered(task: Any, split: str, limit: int | None = None) -> Rendered:
    """The first `limit` rows of a task's split, as the task itself writes them."""
    try:
        docs = task.dataset[split]
    except KeyError as error:
        raise LorafuseError(
            f"task '{task.config.task}' has no split '{split}'. Train on a task that has one."
        ) from error
    if task.config.process_docs is not None:
        docs = task.config.process_docs(docs)
    if limit is not None:
        docs = docs.select(range(min(limit, len(docs))))
    return Rendered(task, docs)


def load_task(name: str, source: str) -> Any:
    """The lm-eval task called `name`, with its rows from `source`."""
    from lorafuse_bench.tasks.loading import load_tasks

    return load_tasks(suite(name), source)[name]
