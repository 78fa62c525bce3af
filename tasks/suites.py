"""The task suites by name: which tasks belong together and which metric speaks for each."""

from __future__ import annotations

from lorafuse_bench.errors import unknown

PREFIX = "lorafuse_"
OPTIONS = "_options"

_MTL5 = ("cnn_dailymail", "wmt14_en_de", "squad", "sst2", "mnli")

# Suite -> task keys. mtl5 and mtl7 are the task sets of the rethinking paper, mtl_proposal that of the
# proposal before it.
SUITES: dict[str, tuple[str, ...]] = {
    "mtl5": _MTL5,
    "mtl7": (*_MTL5, "paws", "piqa"),
    "mtl_proposal": ("cnn_dailymail", "wmt14_en_de", "squad", "dialogue", "gsm8k"),
}

# Suites of tasks that no expert was trained for. They ask what fusing did to the base, so their boards
# compare with the base, before and after, and need no oracle.
OBLIVION = frozenset({"or_mtl"})

# Task key -> the metric that stands for the task in a multitask mean. `nll_per_byte` is a loss: lower is
# better, and it never enters a mean of ratios.
REPRESENTATIVE: dict[str, str] = {
    "cnn_dailymail": "rougeL",
    "wmt14_en_de": "bleu",
    "squad": "f1",
    "sst2": "acc",
    "mnli": "acc",
    "paws": "bleu",
    "piqa": "acc",
    "gsm8k": "exact_match",
    "dialogue": "nll_per_byte",
}

# Tasks that also have a log-likelihood leaf, `lorafuse_<key>_options`, over their label words.
WITH_OPTIONS = frozenset({"sst2", "mnli", "piqa"})


def leaf_tasks(suite: str) -> tuple[str, ...]:
    """The lm-eval task names of a suite, each `_options` leaf right after its generation leaf."""
    if suite not in SUITES:
        raise unknown("suite", suite, SUITES)
    names: list[str] = []
    for key in SUITES[suite]:
        names.append(PREFIX + key)
        if key in WITH_OPTIONS:
            names.append(PREFIX + key + OPTIONS)
    return tuple(names)


def task_key(task_name: str) -> str:
    """`lorafuse_sst2` and `lorafuse_sst2_options` -> `sst2`; any other name is its own key."""
    if not task_name.startswith(PREFIX):
        return task_name
    return task_name.removeprefix(PREFIX).removesuffix(OPTIONS)
