"""Tasks whose answer is one of a few words: an lm-eval task class for the label leaves.

Such a leaf names its words in `doc_to_choice`, the right one in `doc_to_target` (its position or the word
itself) and a pure function in `process_results`, which gets the words, the position of the right one and
the model's answer. So a further label task is a YAML file and no code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks.docs import Doc
from lorafuse_bench.tasks.shots import WithShots


class LabelTask(WithShots):
    """Target: a word of `doc_to_choice`; LorafuseError for a row whose label is none of them."""

    def doc_to_target(self, doc: Mapping[str, Any], doc_to_target: Any = None) -> str:
        """The right word, which is also what training rows end in."""
        words = self.doc_to_choice(doc)
        label = super().doc_to_target(doc, doc_to_target)
        if isinstance(label, int):
            label = words[label] if label in range(len(words)) else label
        if label not in words:
            raise LorafuseError(
                f"a row of {self.config.task} has label {label!r}, which is none of {', '.join(words)}."
                " Evaluate a split whose labels are public."
            )
        return str(label)

    def process_results(self, doc: Doc, results: list[Any]) -> dict[str, Any]:
        """Metric name to the item's value, by the function that the YAML names."""
        words = self.doc_to_choice(doc)
        found: dict[str, Any] = self.config.process_results(
            words, words.index(self.doc_to_target(doc)), results
        )
        return found
