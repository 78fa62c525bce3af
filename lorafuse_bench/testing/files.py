"""Merges as files: writing a merge and reading it again gives the same merge."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.export import export_merge, export_pool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Merge
from lorafuse_bench.fusion.merging.concat import Concat
from lorafuse_bench.testing.check import HOLDS, check
from lorafuse_bench.testing.subject import DoesNotApplyError, Subject, gap, prompts
from lorafuse_bench.testing.toys import byte_tokenizer, pool_of, toy_base, toy_experts
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import BaseEntry, Manifest, Zoo, weights_sha256


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A zoo of the toys on disk, for as long as the process lives."""
    folder = tempfile.TemporaryDirectory(prefix="lorafuse-toys-")
    root = Path(folder.name)
    toy_base().save_pretrained(root / "base")
    byte_tokenizer().save_pretrained(root / "base")
    base = BaseEntry(path="base", sha256=weights_sha256(root / "base"))
    zoo = Zoo(
        root, Manifest(schema="lorafuse.zoo/1", name="toys", seed=0, base=base, init="shared", data="hub")
    )
    export_pool(pool_of(toy_experts()), zoo, root / "experts")
    index_adapters(root, str(root / "base"), init="shared")
    return folder


def toy_folder() -> Path:
    """The folder of a zoo of the toys: for reading alone."""
    return Path(_folder().name)


@check
def what_is_exported_is_the_merge(subject: Subject) -> None:
    """A merge that is written, as an adapter or as a model, and loaded again gives the same distributions."""
    if not isinstance(subject.method, Merge):
        raise DoesNotApplyError("it does not collapse to one adapter")
    if "fit" in subject.method.needed:
        raise DoesNotApplyError("it exports what was fitted in a zoo, and the toy zoo has no fits")
    zoo = Zoo.open(toy_folder())
    expected = subject.distribution(ExpertPool.from_zoo(zoo).experts)
    with tempfile.TemporaryDirectory(prefix="lorafuse-export-") as out:
        exported = export_merge(subject.method, zoo, Path(out) / "merge")
        base = toy_base()
        if exported.kind == "model":
            base = AutoModelForCausalLM.from_pretrained(exported.path, dtype=torch.float32)
        else:
            alone = LoraExpert.load(exported.path, "merge", "merge")
            FusedModel(base, zoo, pool_of([alone])).use(Concat())
        with torch.no_grad():
            got = base(input_ids=prompts()[0]).logits.log_softmax(-1)
    assert gap(got, expected) < HOLDS, f"what was written differs by {gap(got, expected):.2g} nats"
