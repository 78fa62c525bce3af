"""Adapters on output layers and embeddings, as PEFT saves them: fused as trained, with tied weights kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from peft_made import IDS, fused_logits, logits, trained, zoo_of
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from transformers import AutoModelForCausalLM

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import LoraExpert
from lorafuse_bench.export import export_merge
from lorafuse_bench.fusion import registry
from lorafuse_bench.peft_tensors import WEIGHTS

TARGETS = (["lm_head"], ["embed_tokens"], ["embed_tokens", "lm_head", "q_proj"])
TIED, UNTIED = "qwen2", "llama"


def settings(targets: list[str], **changes: object) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=6, target_modules=targets, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", [TIED, UNTIED])
@pytest.mark.parametrize("targets", TARGETS, ids="+".join)
def test_adapted_output_layers_and_embeddings_fuse_as_trained(
    tmp_path: Path, architecture: str, targets: list[str]
) -> None:
    """As static merge, per row and per token; and written as a file, which others load to the same function."""
    peft = trained(tiny_model(architecture), settings(targets))
    expected = logits(peft)
    zoo = zoo_of(tmp_path, peft.save_pretrained, tiny_model(architecture))
    assert (expected - logits(tiny_model(architecture))).abs().max() > 1e-2
    for spec in ("concat", "oracle", "mu", "ties:density=1"):
        got = fused_logits(zoo, tiny_model(architecture), spec)
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=2e-5, msg=spec)
    written = export_merge(registry.parse("concat"), zoo, tmp_path / "out")
    assert written.kind == ("model" if architecture == TIED else "adapter")
    loaded = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        if written.kind == "model"
        else PeftModel.from_pretrained(tiny_model(architecture), tmp_path / "out")
    )
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-4, atol=1e-4)


def test_adapters_that_peft_keeps_tied_fuse_as_trained(tmp_path: Path) -> None:
    peft = trained(tiny_model(TIED), settings(["embed_tokens"], ensure_weight_tying=True))
    zoo = zoo_of(tmp_path, peft.save_pretrained, tiny_model(TIED))
    expert = LoraExpert.load(zoo.root / "experts" / "a", "a", "a")
    assert expert.targets == ("embed_tokens", "lm_head")
    torch.testing.assert_close(fused_logits(zoo, tiny_model(TIED)), logits(peft), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("architecture", [TIED, UNTIED])
def test_unchanged_embeddings_saved_beside_the_adapter_are_no_obstacle(
    tmp_path: Path, architecture: str
) -> None:
    peft = trained(tiny_model(architecture), settings(["q_proj"]))
    zoo = zoo_of(
        tmp_path,
        lambda folder: peft.save_pretrained(folder, save_embedding_layers=True),
        tiny_model(architecture),
    )
    copies = LoraExpert.load(zoo.root / "experts" / "a", "a", "a").copies
    assert {copy.module for copy in copies} >= {"model.embed_tokens"}
    torch.testing.assert_close(
        fused_logits(zoo, tiny_model(architecture)), logits(peft), rtol=1e-5, atol=2e-5
    )
    half = tiny_model(architecture).bfloat16()
    assert torch.isfinite(fused_logits(zoo, half)).all()  # equal up to the rounding to bf16


@pytest.mark.parametrize("targets", [["q_proj"], ["lm_head"]])
def test_changed_embeddings_are_refused_when_indexed_and_when_fused(
    tmp_path: Path, targets: list[str]
) -> None:
    peft = trained(tiny_model(), settings(targets))
    zoo = zoo_of(tmp_path, lambda folder: peft.save_pretrained(folder, save_embedding_layers=True))
    folder = zoo.root / "experts" / "a"
    tensors = load_file(folder / WEIGHTS)
    key = next(key for key in tensors if ".lora_" not in key)
    tensors[key] = tensors[key].clone()
    tensors[key][0, 0] += 1e-3
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(LorafuseError, match=r"adapter 'a' brings its own \S+, and it is not the base's"):
        zoo_of(tmp_path, lambda _: None)
    entry = zoo.manifest.experts[0].model_copy(update={"sha256": LoraExpert.load(folder, "a", "a").sha256})
    zoo.manifest = zoo.manifest.model_copy(update={"experts": (entry,)})
    with pytest.raises(LorafuseError, match="is not the base's"):
        fused_logits(zoo, tiny_model())


def test_embeddings_of_a_resized_vocabulary_are_refused(tmp_path: Path) -> None:
    model = tiny_model()
    model.resize_token_embeddings(260)
    peft = trained(model, settings(["q_proj"]))
    with pytest.raises(LorafuseError, match="adapter 'a' brings its own"):
        zoo_of(tmp_path, lambda folder: peft.save_pretrained(folder, save_embedding_layers=True))


def test_rows_of_several_experts_meet_in_one_embedding(tmp_path: Path) -> None:
    """Per row, each token is looked up in its row's expert."""
    models = [trained(tiny_model(UNTIED), settings(["embed_tokens"], lora_dropout=0.0)) for _ in "ab"]
    with torch.no_grad():
        for parameter in models[1].parameters():
            if parameter.requires_grad:
                parameter.mul_(-1.5)
    from lorafuse_bench.experts import ExpertPool
    from lorafuse_bench.fused import FusedModel
    from lorafuse_bench.zoo.index import index_adapters

    tiny_model(UNTIED).save_pretrained(tmp_path / "base")
    for name, model in zip("ab", models, strict=True):
        model.save_pretrained(tmp_path / "experts" / name)
    zoo = index_adapters(tmp_path, str(tmp_path / "base"))
    base = tiny_model(UNTIED)
    fused = FusedModel(base, zoo, ExpertPool.from_zoo(zoo))
    fused.use(registry.parse("oracle"))
    fused.selection.set(torch.tensor([[1], [0]]).repeat(1, fused.base.blocks))
    got = logits(base)
    torch.testing.assert_close(got[0], logits(models[1])[0], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(got[1], logits(models[0])[1], rtol=1e-5, atol=2e-5)
    assert IDS.shape[0] == 2
