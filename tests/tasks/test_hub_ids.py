"""Where the leaves' rows come from on the hub: as lm-eval itself has it, and never a data set that is a script."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_eval.tasks._yaml_loader import load_yaml

from lorafuse_bench.tasks.borrowed import THEIRS

LEAVES = Path(str(files("lorafuse_bench.tasks"))) / "leaves"

# lm-eval's own task of the same data.
SAME = {
    "sst2": "glue/sst2/default.yaml",
    "cola": "glue/cola/default.yaml",
    "mnli": "glue/mnli/default.yaml",
    "mrpc": "glue/mrpc/default.yaml",
    "qnli": "glue/qnli/default.yaml",
    "qqp": "glue/qqp/default.yaml",
    "rte": "glue/rte/default.yaml",
    "piqa": "piqa/piqa.yaml",
    "arc_e": "arc/arc_easy.yaml",
    "arc_c": "arc/arc_challenge.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
    "winogrande": "winogrande/default.yaml",
    "obqa": "openbookqa/openbookqa.yaml",
    "siqa": "siqa/siqa.yaml",
    "csqa": "commonsense_qa/default.yaml",
    "gsm8k": "gsm8k/gsm8k.yaml",
    "cnn_dailymail": "cnn_dailymail/cnn_dailymail.yaml",
}
# Data sets of which lm-eval has no task under this id: (id, configuration, evaluated split).
OWN = {
    "boolq": ("google/boolq", None, "validation"),
    "squad": ("rajpurkar/squad", "plain_text", "validation"),
    "paws": ("google-research-datasets/paws", "labeled_final", "validation"),
    "wmt14_en_de": ("wmt/wmt14", "de-en", "test"),
    "agnews": ("fancyzhx/ag_news", None, "test"),
    "dbpedia": ("fancyzhx/dbpedia_14", "dbpedia_14", "test"),
    "dialogue": ("google-research-datasets/schema_guided_dstc8", "sharegpt_style", "validation"),
}
# The configuration or split is another one on purpose.
OTHERWISE = {("winogrande", "name"): "winogrande_debiased", ("cnn_dailymail", "split"): "validation"}

# Loading scripts, which datasets 4 and later refuse: those named in lm-evaluation-harness issue 3171, its pull
# requests 3361, 3943 and 1487, and brevitas pull request 1624.
SCRIPTS = """
    tyouisen/aclue Hennara/aexams masakhane/afriqa-gold-passages facebook/flores masakhane/masakhaner-x
    masakhane/masakhapos math_qa allenai/math_qa allenai/social_i_qa demelin/moral_stories THUDM/LongBench
    ybisk/piqa piqa lukaemon/bbh EleutherAI/mutual skt/kobest_v1 EleutherAI/logiqa bigbio/pubmed_qa
    EleutherAI/race BigScienceBiasEval/crows_pairs_multilingual baber/logiqa2 EleutherAI/arithmetic
    EleutherAI/asdiv EleutherAI/lambada_openai EleutherAI/wikitext_document_level EleutherAI/drop
    EleutherAI/hendrycks_math juletxara/xstory_cloze allenai/qasper EleutherAI/pile EleutherAI/sycophancy
    EleutherAI/hendrycks_ethics EleutherAI/unscramble EleutherAI/headqa skg/toxigen-data EleutherAI/coqa
    corypaik/prost
""".split()


class _Loader(yaml.SafeLoader):
    """Reads `!function` as its text."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def leaf(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.load(path.read_text(), _Loader)
    return found


def own_leaves() -> dict[str, dict[str, Any]]:
    """The leaves that name a data set of the hub; those of the mini world are on no hub."""
    read = {path.stem: leaf(path) for path in LEAVES.glob("*.yaml")}
    return {
        key: config
        for key, config in read.items()
        if not str(config.get("dataset_path", "mini/")).startswith("mini/")
    }


def test_every_leaf_is_held_against_something() -> None:
    assert own_leaves().keys() == SAME.keys() | OWN.keys()


@pytest.mark.parametrize("key", sorted(own_leaves()))
def test_a_leaf_and_its_rows_name_the_same_data(key: str) -> None:
    """lm-eval's result says `dataset_path`; the rows come from `dataset_kwargs`."""
    config = own_leaves()[key]
    dataset = config["dataset_kwargs"]["dataset"]
    assert (dataset["hub"], dataset.get("name")) == (config["dataset_path"], config.get("dataset_name"))


@pytest.mark.parametrize("key", sorted(SAME))
def test_id_configuration_split_and_columns_are_lm_evals(key: str) -> None:
    ours, theirs = own_leaves()[key], load_yaml(THEIRS / SAME[key], resolve_func=False)
    assert ours["dataset_path"] == theirs["dataset_path"]
    assert ours.get("dataset_name") == OTHERWISE.get((key, "name"), theirs.get("dataset_name"))
    split = theirs.get("test_split") or theirs["validation_split"]
    assert ours["test_split"] == OTHERWISE.get((key, "split"), split)
    assert theirs.get("training_split", "train") == "train"
    folder = (THEIRS / SAME[key]).parent
    words = set(re.findall(r"\w+", " ".join(map(str, theirs.values()))))
    for path in [*folder.glob("*.py"), *folder.glob("*.yaml")]:
        words |= set(re.findall(r"\w+", path.read_text()))
    assert set(ours["dataset_kwargs"]["dataset"]["columns"]) <= words


@pytest.mark.parametrize("key", sorted(OWN))
def test_the_others_are_as_their_cards_say(key: str) -> None:
    config = own_leaves()[key]
    assert (config["dataset_path"], config.get("dataset_name"), config["test_split"]) == OWN[key]


def test_no_leaf_names_a_script() -> None:
    named = {config["dataset_path"] for config in own_leaves().values()}
    borrowed = [leaf(path)["lm_eval"] for path in LEAVES.glob("*.yaml") if "lm_eval" in leaf(path)]
    for pattern in borrowed:
        for path in THEIRS.glob(pattern):
            named.add(load_yaml(path, resolve_func=False)["dataset_path"])
    assert len(named) > 20
    assert not named & set(SCRIPTS)
