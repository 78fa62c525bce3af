"""Wider heads compute the same, with and without adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny import tiny_model, tiny_zoo
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.export import PROVENANCE, export_experts
from lorafuse_bench.heads import Widening, fit, head_size

IDS = torch.randint(256, (2, 60), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_the_wider_model_gives_the_same_logits(architecture: str, tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo", architecture, mixed=True)
    base, config = zoo.base_folder(), AutoConfig.from_pretrained(zoo.base_folder())
    widening = Widening.needed(config, (4, 14, 20))
    assert widening == Widening(8, 14)
    own = [one.path for one in export_experts(zoo, tmp_path / "all")]
    folder, adapters = fit(base, own, (4, 14, 20), tmp_path / "wide")
    wide = load(folder)
    assert head_size(wide.config) == 14
    assert wide.get_submodule("model.layers.0.self_attn.q_proj").weight.shape == (4 * 14, 32)
    torch.testing.assert_close(logits(wide), logits(load(base)), rtol=1e-4, atol=1e-4)
    assert (folder / "tokenizer.json").is_file()
    for source, adapter in zip(own, adapters, strict=True):
        expected = logits(PeftModel.from_pretrained(load(base), str(source)))
        got = logits(PeftModel.from_pretrained(load(folder), str(adapter)))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
        assert (expected - logits(wide)).abs().max() > 0.1, "too small an update to mean anything"
        settings = json.loads((adapter / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == str(folder)
        assert (adapter / PROVENANCE).read_text() == (source / PROVENANCE).read_text()


def test_a_size_that_is_served_leaves_the_files_as_they_are(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo")
    adapters = [zoo.root / entry.path for entry in zoo.manifest.experts]
    assert fit(zoo.base_folder(), adapters, (8,), tmp_path / "out") == (zoo.base_folder(), adapters)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("architecture", "sizes"), [("gpt2", (4, 16)), ("qwen2", (2, 4))])
def test_heads_that_cannot_be_widened_are_refused(architecture: str, sizes: tuple[int, ...]) -> None:
    with pytest.raises(LorafuseError, match="heads of size 8 cannot be served here .*--model lorafuse"):
        Widening.needed(tiny_model(architecture).config, sizes)
