"""A text and its references, as lm-eval logs them for a metric of whole corpora."""

from __future__ import annotations

from collections.abc import Sequence


def pair_of(item: Sequence[object]) -> tuple[list[str], str]:
    """The references and the text of lm-eval's `(references, text)`; either may stand alone or in a list."""
    references, text = item
    listed = references if isinstance(references, list | tuple) else [references]
    written = text[0] if isinstance(text, list | tuple) else text
    return [str(reference) for reference in listed], str(written)
