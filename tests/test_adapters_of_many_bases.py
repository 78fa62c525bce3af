"""Twelve architectures, each with adapters of eight kinds of LoraConfig, fused as PEFT runs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft_made import IDS, logits, trained
from tiny import byte_tokenizer
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.loading import load_model
from lorafuse_bench.zoo.index import index_adapters

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 257,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
GATED = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
OLD = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 257, "n_positions": 64, "eos_token_id": None}
MIXTURE = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "num_experts": 4}
BASES: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "bloom": ({**SMALL, "n_layer": 2, "n_head": 4}, ("query_key_value", "dense")),
    "falcon": ({**SMALL, "multi_query": True}, ("query_key_value", "dense_h_to_4h")),
    "gemma2": ({**GATED, "head_dim": 8}, ("q_proj", "down_proj")),
    "gpt2": (OLD, ("c_attn", "c_fc")),
    "gpt_neox": ({**SMALL, "intermediate_size": 48}, ("query_key_value", "dense_4h_to_h")),
    "granite": (GATED, ("q_proj", "v_proj")),
    "mistral": (GATED, ("q_proj", "up_proj")),
    "olmo2": (GATED, ("k_proj", "o_proj")),
    "opt": ({**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}, ("q_proj", "fc1")),
    "phi3": (GATED, ("qkv_proj", "gate_up_proj")),
    "qwen2_moe": ({**GATED, **MIXTURE, "num_experts_per_tok": 2}, ("q_proj", "shared_expert.gate_proj")),
    "qwen3": ({**GATED, "head_dim": 8}, ("q_proj", "up_proj")),
}


def configurations(first: str, second: str) -> dict[str, LoraConfig]:
    """One adapter of every kind on the modules called `first` and `second`."""
    both: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": [first, second]}
    return {
        "plain": LoraConfig(**both),
        "rslora": LoraConfig(**both, use_rslora=True),
        "ranks": LoraConfig(**both, rank_pattern={second: 2}),
        "alphas": LoraConfig(**both, alpha_pattern={first: 11}),
        "one-block": LoraConfig(**both, layers_to_transform=[1]),
        "excluded": LoraConfig(**both, exclude_modules=rf".*\.0\..*{first}"),
        "expression": LoraConfig(**{**both, "target_modules": rf".*\.{first}"}),
        "gaussian": LoraConfig(**both, init_lora_weights="gaussian", lora_dropout=0.1),
    }


def model_of(name: str) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(name, **BASES[name][0]), dtype=torch.float32
        )
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    return model.eval()


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("name", BASES)
def test_every_kind_of_adapter_fuses_as_peft_runs_it(tmp_path: Path, name: str) -> None:
    base = model_of(name)
    base.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    expected = {}
    for kind, settings in configurations(*BASES[name][1]).items():
        peft = trained(model_of(name), settings)
        peft.save_pretrained(tmp_path / "experts" / kind)
        expected[kind] = logits(peft)
        assert (expected[kind] - logits(base)).abs().max() > 1e-2, kind
    zoo = index_adapters(tmp_path, str(tmp_path / "base"))
    fused = FusedModel(load_model(tmp_path / "base", torch.float32), zoo, ExpertPool.from_zoo(zoo))
    fused.use(registry.parse("oracle"))
    for i, kind in enumerate(fused.pool.names):
        fused.selection.set(torch.full((len(IDS), fused.base.blocks), i))
        torch.testing.assert_close(
            logits(fused.model), expected[kind], rtol=0, atol=1e-5, msg=f"{kind}, by row"
        )
    for kind in ("plain", "ranks"):
        fused = FusedModel.of(fused, ExpertPool.from_zoo(zoo, [kind]))
        fused.use(registry.parse("concat"))
        torch.testing.assert_close(
            logits(fused.model), expected[kind], rtol=0, atol=1e-5, msg=f"{kind}, merged"
        )


def test_an_encoder_decoder_base_is_refused_when_it_is_indexed(tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        "t5", d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=257
    )
    model = AutoModelForSeq2SeqLM.from_config(config)
    model.save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    trained(model_of("granite"), LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(
        tmp_path / "experts" / "a"
    )
    with pytest.raises(
        LorafuseError, match="an encoder-decoder model, and only decoders are fused"
    ) as caught:
        index_adapters(tmp_path, str(tmp_path / "base"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "manifest.json").exists()


def test_lora_on_the_stacked_weights_of_a_mixture_is_refused_by_name(tmp_path: Path) -> None:
    """PEFT adapts weights that lie in one tensor for all experts of a mixture by `target_parameters`."""
    model = model_of("qwen2_moe")
    settings = LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"])
    trained(model, settings).save_pretrained(tmp_path / "experts" / "a")
    model_of("qwen2_moe").save_pretrained(tmp_path / "base")
    with pytest.raises(LorafuseError, match="adapter 'a' uses target_parameters="):
        index_adapters(tmp_path, str(tmp_path / "base"))
