"""Adapters that PEFT itself makes: one training step on a tiny model, then saved as users save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tiny import byte_tokenizer, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import Zoo

IDS = torch.tensor([[72, 101, 108, 108, 111, 32, 119], [111, 114, 108, 100, 33, 33, 10]])


def trained(model: PreTrainedModel, config: LoraConfig, **how: Any) -> PeftModel:
    """`model` with a new adapter after two large steps of SGD; `how` goes to `get_peft_model`."""
    torch.manual_seed(0)
    peft = get_peft_model(model, config, **how)
    steps = torch.optim.SGD([p for p in peft.parameters() if p.requires_grad], lr=0.3)
    for _ in range(2):
        steps.zero_grad()
        peft(input_ids=IDS, labels=IDS).loss.backward()
        steps.step()
    return peft.eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(input_ids=IDS).logits.float()


def zoo_of(root: Path, save: Callable[[Path], object], model: PreTrainedModel | None = None) -> Zoo:
    """A zoo of one adapter, which `save` writes to the folder it is given, on `model` (tiny_model by default)."""
    (tiny_model() if model is None else model).save_pretrained(root / "base")
    byte_tokenizer().save_pretrained(root / "base")
    save(root / "experts" / "a")
    return index_adapters(root, str(root / "base"))


def fused_logits(zoo: Zoo, model: PreTrainedModel, spec: str = "concat") -> Tensor:
    """Logits of `model`, a loaded base of the zoo, with its experts fused."""
    fused = FusedModel(model, zoo, ExpertPool.from_zoo(zoo))
    fused.use(registry.parse(spec))
    if fused.method is not None and fused.method.name == "oracle":
        fused.selection.set(torch.zeros(len(IDS), fused.base.blocks, dtype=torch.long))
    return logits(model)
