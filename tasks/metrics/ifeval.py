"""Share of instructions followed on 0..1 (Zhou et al., 2023): lm-eval's checks, kept per item as counts.

An item of an instruction-level metric is [followed, asked], the metric the ratio of the sums; of a
prompt-level one, whether all were followed. `loose` forgives a first or last line and asterisks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache
from io import StringIO
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.measures.ratio import RATIO
from lorafuse_bench.leaderboards.statistics import stats
from lorafuse_bench.tasks.docs import Doc

LEVELS = ("strict", "loose")
NEEDS_SENTENCES = frozenset({"length_constraints:number_sentences", "change_case:capital_word_frequency"})
"""Instructions whose checks split text by NLTK's punkt_tab."""


def share(items: Sequence[Sequence[int]]) -> float:
    """Followed over asked, over items given as counts."""
    return RATIO.point(items)


def share_stderr(items: Sequence[Sequence[int]]) -> float | str:
    """Its standard error, prompts being what was drawn; `"N/A"` for fewer than two of them."""
    error = stats.statistic(items, measure=RATIO).estimate().se
    return "N/A" if error is None else error


def score_instructions(doc: Doc, results: list[str]) -> dict[str, Any]:
    """Items of ifeval; `<name>_stderr` fills lm-eval's column as in `bleu`."""
    found: dict[str, Any] = {}
    checked = _checks()(doc, results)
    for level in LEVELS:
        followed = checked[f"inst_level_{level}_acc"]
        counts = [sum(followed), len(followed)]
        found |= {f"inst_level_{level}_acc": counts, f"inst_level_{level}_acc_stderr": counts}
        found[f"prompt_level_{level}_acc"] = float(all(followed))
    main = found["inst_level_strict_acc"]
    return {**found, "score": main, "score_stderr": main}


def prompt(doc: Doc) -> str:
    """The instructions as the dataset has them; LorafuseError where the data that checks them is missing."""
    if NEEDS_SENTENCES & set(doc["instruction_id_list"]) and not _punkt():
        raise LorafuseError(
            "ifeval checks sentences by NLTK's punkt_tab, which is not on this machine."
            " Fetch it once: python -m nltk.downloader punkt_tab."
        )
    return str(doc["prompt"])


@cache
def _punkt() -> bool:
    """Whether punkt_tab is there, fetched now if need be, as lm-eval does."""
    import nltk

    for _ in range(2):
        with suppress(LookupError):
            return bool(nltk.data.find("tokenizers/punkt_tab"))
        nltk.download("punkt_tab", quiet=True)
    return False


@cache
def _checks() -> Callable[[Doc, list[str]], dict[str, Any]]:
    """lm-eval's checks; importing them tries to fetch punkt_tab again, and says that it did even where not."""
    from langdetect import DetectorFactory

    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        from lm_eval.tasks.ifeval import utils

    DetectorFactory.seed = 0  # otherwise each text gets another draw
    return utils.process_results
