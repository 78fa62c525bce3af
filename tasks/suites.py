"""The task suites by name: which tasks belong together and which metric speaks for each."""

from __future__ import annotations

from lorafuse_bench.errors import LorafuseError, unknown

PREFIX = "lorafuse_"
OPTIONS = "_options"

_TEXT = tuple(f"text_{kind}" for kind in "story parallel claims views tools boxes wordbook".split())
_MTL5 = ("cnn_dailymail", "wmt14_en_de", "squad", "sst2", "mnli")

_NO_CODE = ("mmlu", "ifeval", "bbh", "gpqa", "gsm8k_cot")

# Tasks that run code which the model writes: see `consent`.
CODE = frozenset({"humaneval", "mbpp"})

# Suite -> task keys. mtl5 and mtl7 are the task sets of the rethinking paper, mtl_proposal that of the
# proposal before it; csr_mtl, nlu_mtl and or_mtl those of MoORE, spectr9 that of SpectR. mini_text is what the
# mini world's base learnt to read.
SUITES: dict[str, tuple[str, ...]] = {
    "mtl5": _MTL5,
    "mtl7": (*_MTL5, "paws", "piqa"),
    "mtl_proposal": ("cnn_dailymail", "wmt14_en_de", "squad", "dialogue", "gsm8k"),
    "csr_mtl": ("arc_c", "arc_e", "boolq", "obqa", "piqa", "siqa", "hellaswag", "winogrande", "csqa"),
    "nlu_mtl": ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2"),
    "mini_text": _TEXT,
    "spectr9": ("agnews", "cola", "dbpedia", "hellaswag", "mnli", "mrpc", "qnli", "qqp", "sst2"),
    "or_mtl": ("mmlu", "ifeval", "bbh", "gpqa", "humaneval", "mbpp", "gsm8k_cot"),
    "or_mtl_no_code": _NO_CODE,
}

# Suites of tasks that no expert was trained for. They ask what fusing did to the base, so their boards
# compare with the base, before and after, and need no oracle.
OBLIVION = frozenset({"or_mtl", "or_mtl_no_code", "mini_text"})

# Tasks whose answer is one of a few words. Each has a log-likelihood leaf beside it,
# `lorafuse_<key>_options`, over those words.
LABELS = frozenset(SUITES["csr_mtl"] + SUITES["nlu_mtl"] + SUITES["spectr9"])

# Task key -> the metric that stands for the task in a multitask mean. `nll_per_byte` is a loss: lower is
# better, and it never enters a mean of ratios.
REPRESENTATIVE: dict[str, str] = {
    **dict.fromkeys(sorted(LABELS), "acc"),
    **dict.fromkeys(_TEXT, "acc"),
    "cola": "mcc",
    "cnn_dailymail": "rougeL",
    "wmt14_en_de": "bleu",
    "squad": "f1",
    "paws": "bleu",
    "gsm8k": "exact_match",
    "dialogue": "nll_per_byte",
    "mmlu": "acc",
    "ifeval": "inst_level_strict_acc",
    "bbh": "exact_match",
    "gpqa": "acc",
    "humaneval": "pass@1",
    "mbpp": "pass@1",
    "gsm8k_cot": "exact_match",
}

# Where a suite's paper scores a task otherwise: SpectR has accuracy throughout.
_IN_SUITE = {("spectr9", "cola"): "acc"}


def representative(suite: str, key: str) -> str:
    """The metric that stands for a task in a suite's mean."""
    return _IN_SUITE.get((suite, key), REPRESENTATIVE[key])


def suite_tasks(suite: str) -> tuple[str, ...]:
    """The task keys of a suite: one of SUITES, or any tasks, such as `piqa/boolq`."""
    if suite in SUITES:
        return SUITES[suite]
    keys = tuple(suite.split("/"))
    for key in keys:
        if key not in REPRESENTATIVE:
            raise unknown(
                "suite" if len(keys) == 1 else "task", key, SUITES if len(keys) == 1 else REPRESENTATIVE
            )
    if len(set(keys)) < len(keys):
        raise LorafuseError(f"suite '{suite}' names a task twice. Name each once.")
    return keys


def leaf_tasks(suite: str) -> tuple[str, ...]:
    """The lm-eval task names of a suite, each `_options` leaf right after its generation leaf."""
    names: list[str] = []
    for key in suite_tasks(suite):
        names.append(PREFIX + key)
        if key in LABELS:
            names.append(PREFIX + key + OPTIONS)
    return tuple(names)


def task_key(task_name: str) -> str:
    """`lorafuse_sst2` and `lorafuse_sst2_options` -> `sst2`; any other name is its own key."""
    if not task_name.startswith(PREFIX):
        return task_name
    return task_name.removeprefix(PREFIX).removesuffix(OPTIONS)
