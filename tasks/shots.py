"""Examples in the prompt (`--num_fewshot`): which rows they are, for every task of ours.

They come from the training split, or from what lm-eval's own task names for it, and never from the split
that is scored. Which ones depends on the few-shot seed and on the document alone, so neither the order of
the documents nor the number of processes matters, and a task's `_options` leaf shows the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lm_eval.api.task import ConfigurableTask

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.docs import Doc

FIRST = "first_n"
"""lm-eval's name for a sampler that shows the first examples, in their order."""


def refuse_cache(wanted: bool) -> None:
    """LorafuseError where lm-eval's request cache is wanted."""
    if wanted:
        raise LorafuseError(
            "--cache_requests keys prompts by the task's name alone and would serve one data source's or one seed's"
            " for another. Leave it out."
        )


@dataclass(frozen=True)
class _Chosen:
    """What lm-eval asks for examples: those chosen already."""

    docs: Sequence[Doc]

    def sample(self, *args: Any, **kwargs: Any) -> Sequence[Doc]:
        return self.docs


class WithShots(ConfigurableTask):
    """An lm-eval task that shows as many examples as `num_fewshot` says; LorafuseError where it has none."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._seed: int | None = None
        self._pool: Sequence[Doc] | None = None
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def fewshot_docs(self) -> None:
        """None when the task is made: the training split is read only where examples are asked for."""

    def set_fewshot_seed(self, seed: int | None = None) -> None:
        """The seed that examples are drawn by."""
        self._seed = seed

    def fewshot_context(self, doc: Doc, num_fewshot: int, *args: Any, **kwargs: Any) -> Any:
        """The prompt of `doc` after `num_fewshot` examples."""
        if num_fewshot:
            self.sampler = _Chosen(self.examples(doc, num_fewshot))
        return super().fewshot_context(doc, num_fewshot, *args, **kwargs)

    def examples(self, doc: Doc, number: int) -> list[Doc]:
        """`number` rows that differ from `doc` in what the model would read."""
        if self._pool is None:
            self._pool = self._rows()
        if self.fewshot_cfg.sampler == FIRST and len(self._pool) >= number:
            # Fixed by lm-eval's task for every document, even where one of them reads like it.
            return [self._pool[position] for position in range(number)]
        prompt = self.doc_to_text(doc)
        found: dict[str, Doc] = {}
        for position in self._order(prompt):
            example = self._pool[position]
            text = str(self.doc_to_text(example))
            if text != prompt:
                found.setdefault(text, example)
            if len(found) == number:
                return list(found.values())
        raise LorafuseError(
            f"task '{self.config.task}' has {len(found)} examples to show, fewer than num_fewshot={number}."
            " Ask for fewer."
        )

    def build_all_requests(self, **kwargs: Any) -> None:
        """lm-eval's requests; LorafuseError for its request cache."""
        refuse_cache(bool(kwargs.get("cache_requests")))
        super().build_all_requests(**kwargs)

    def _rows(self) -> Sequence[Doc]:
        """The rows that examples come from; LorafuseError if there are none besides the scored ones."""
        given = self.fewshot_cfg
        if given.split is not None and given.split != self.config.test_split:
            rows = self.dataset[given.split]
            return given.process_docs(rows) if given.process_docs else rows
        if given.split is None and given.samples is not None:
            return given.samples() if callable(given.samples) else given.samples
        raise LorafuseError(
            f"task '{self.config.task}' has no training split to take examples from. Leave --num_fewshot out, or"
            " the task."
        )

    def _order(self, prompt: Any) -> Iterator[int]:
        """Positions to try in turn: all for lm-eval's first-come sampler, else draws without end of the pool."""
        assert self._pool is not None
        size = len(self._pool)
        if self.fewshot_cfg.sampler == FIRST:
            yield from range(size)
            return
        chance = random.Random(f"{self._seed}/{prompt}")
        swapped: dict[int, int] = {}  # a shuffle as far as it is looked at
        for i in range(size):
            j = chance.randrange(i, size)
            yield swapped.get(j, j)
            swapped[j] = swapped.get(i, i)
