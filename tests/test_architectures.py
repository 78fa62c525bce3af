"""Bases of other shapes: flat inputs, a text model in a wrapper, scaled embeddings, quantised weights."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft_made import IDS, logits, trained
from safetensors.torch import load_file, save_file
from tiny import byte_tokenizer, tiny_model
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from lorafuse_bench.base_model import Base
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.export import export_merge
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.adapters.moore import Moore
from lorafuse_bench.fusion.adapters.trained import initialise
from lorafuse_bench.fusion.base import Prompts
from lorafuse_bench.layers import RowUpdate, Selection, install, linear_weight
from lorafuse_bench.loading import load_model
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import Zoo

SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 257,
    "max_position_embeddings": 64,
}
GEMMA = {**SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
TOWER = {key: SMALL[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
SHAPES: dict[str, dict[str, Any]] = {
    "opt": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen2_moe": {
        **SMALL,
        "intermediate_size": 48,
        "num_key_value_heads": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
    },
    "gemma3": {
        "text_config": GEMMA,
        "vision_config": {**TOWER, "intermediate_size": 48, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4,
        "image_token_index": 250,
        "boi_token_index": 251,
        "eoi_token_index": 252,
    },
    "gemma3_text": GEMMA,
}
TARGETS = {
    "opt": ["fc1", "fc2", "q_proj"],
    "qwen2_moe": ["shared_expert.gate_proj", "shared_expert.down_proj", "q_proj", "shared_expert_gate"],
    "gemma3": r".*language_model.*\.(q_proj|down_proj)",
    "gemma3_text": ["embed_tokens", "q_proj"],
}


def model_of(name: str) -> PreTrainedModel:
    config = AutoConfig.for_model(name, **SHAPES[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.15)
    return model.eval()


def zoo_with(root: Path, models: dict[str, Any], base: PreTrainedModel) -> Zoo:
    base.save_pretrained(root / "base")
    byte_tokenizer().save_pretrained(root / "base")
    for name, model in models.items():
        model.save_pretrained(root / "experts" / name)
    return index_adapters(root, str(root / "base"))


@torch.no_grad()
def turned(model: Any) -> Any:
    """The same adapter, its updates in the other direction."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.mul_(-1.5)
    return model


@pytest.mark.parametrize("name", SHAPES)
def test_experts_fuse_as_peft_runs_them_alone_and_row_by_row(tmp_path: Path, name: str) -> None:
    """Against PEFT; four rows of two experts and none, each equal to its expert alone."""
    settings = LoraConfig(r=4, lora_alpha=6, target_modules=TARGETS[name])
    one, two = trained(model_of(name), settings), turned(trained(model_of(name), settings))
    zoo = zoo_with(tmp_path, {"one": one, "two": two}, model_of(name))
    base = load_model(tmp_path / "base", torch.float32)
    fused = FusedModel(base, zoo, ExpertPool.from_zoo(zoo))
    assert "vision" not in fused.base.prefix and len(fused.base.layers) == 3
    ids = IDS[:1].repeat(4, 1)
    expected = [run(model, ids[:1]) for model in (one, two, model_of(name))]
    assert (expected[0] - expected[2]).abs().max() > 1e-2
    fused.use(registry.parse("oracle"))
    fused.selection.set(torch.tensor([[1], [0], [-1], [0]]).repeat(1, fused.base.blocks))
    for row, expert in enumerate((1, 0, 2, 0)):
        torch.testing.assert_close(run(base, ids)[row], expected[expert][0], rtol=1e-4, atol=3e-5)
    for spec in ("concat", "mu", "ensemble"):
        fused.use(registry.parse(spec))
        assert torch.isfinite(run(base, ids)).all()
    fused = FusedModel.of(fused, ExpertPool.from_zoo(zoo, ["two"]))
    for spec in ("concat", "svd", "arrow:k=1", "spectr:k=1"):
        fused.use(registry.parse(spec))
        torch.testing.assert_close(run(base, ids[:1]), expected[1], rtol=1e-4, atol=3e-5)


@torch.no_grad()
def run(model: nn.Module, ids: Tensor) -> Tensor:
    return model(input_ids=ids).logits


def test_routers_see_the_text_models_blocks_where_a_vision_tower_has_as_many(tmp_path: Path) -> None:
    base = Base(model_of("gemma3"))
    assert base.prefix == "model.language_model.layers"
    assert base.block_of("model.language_model.layers.2.mlp.up_proj") == 2
    assert base.block_of("model.language_model.embed_tokens") == 0
    assert base.block_of("model.vision_tower.encoder.layers.1.mlp.fc1") == 2
    assert all(name.startswith(base.prefix) for name in base.linear_maps())
    peft = trained(model_of("gemma3"), LoraConfig(r=4, target_modules=TARGETS["gemma3"]))
    zoo = zoo_with(tmp_path, {"one": peft}, model_of("gemma3"))
    fused = FusedModel(load_model(tmp_path / "base"), zoo, ExpertPool.from_zoo(zoo))
    seen: list[tuple[int, tuple[int, ...]]] = []
    fused.visit_blocks(
        Prompts(IDS, torch.tensor([7, 7]), ("one", "one")),
        lambda block, hidden: seen.append((block, tuple(hidden.shape))),
    )
    assert seen == [(block, (2, 7, 32)) for block in range(3)]


def test_tokens_in_no_order_of_rows_are_refused_by_experts_of_a_mixture() -> None:
    from lorafuse_bench.experts import ModuleStack

    stack = ModuleStack(torch.ones(2, 3, 8), torch.ones(2, 5, 3), torch.ones(2), (3, 3))
    selection = Selection()
    update = RowUpdate(stack, selection, 0, scattered=True)
    selection.set(torch.tensor([[0], [0]]))
    assert update.add_to(torch.zeros(4, 5), torch.ones(4, 8)).shape == (4, 5)
    selection.set(torch.tensor([[0], [1]]))
    with pytest.raises(LorafuseError, match="in no order of rows"):
        update.add_to(torch.zeros(4, 5), torch.ones(4, 8))
    with pytest.raises(LorafuseError, match="in no order of rows"):
        RowUpdate(stack, selection, 0).add_to(torch.zeros(5, 5), torch.ones(5, 8))


needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed: quantised bases are not tested"
)


IN_FEW_BITS = {4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 8: {"load_in_8bit": True}}


@needs_bitsandbytes
@pytest.mark.parametrize("bits", IN_FEW_BITS)
def test_a_base_in_few_bits_is_fused_beside_its_weights_and_exported_in_fp32(
    tmp_path: Path, bits: int
) -> None:
    """Updates compute in the model's own type; MoORE and whole models start from the dequantised weights."""
    config = AutoConfig.for_model(
        "llama", **{**SMALL, "hidden_size": 64}, intermediate_size=128, num_key_value_heads=4
    )
    torch.manual_seed(0)
    full = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    full.save_pretrained(tmp_path / "full")
    how = BitsAndBytesConfig(**IN_FEW_BITS[bits])
    quantised = AutoModelForCausalLM.from_pretrained(
        tmp_path / "full", quantization_config=how, device_map="cpu", dtype=torch.float32
    )
    peft = trained(full, LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"]))
    zoo = zoo_with(tmp_path, {"one": peft}, quantised)
    base = load_model(tmp_path / "base")
    fused = FusedModel(base, zoo, ExpertPool.from_zoo(zoo))
    plain = logits(base)
    name = "model.layers.0.self_attn.q_proj"
    stack = fused.pool.modules[name]
    delta = stack.B[0] @ stack.A[0]
    inputs = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    for spec in ("concat", "ties:density=1", "arrow:k=1"):
        fused.use(registry.parse(spec))
        layer = base.get_submodule(name)
        torch.testing.assert_close(layer(inputs), layer.base(inputs) + inputs @ delta.T, rtol=1e-4, atol=1e-4)
    assert (logits(base) - plain).abs().max() > 1e-3
    fused.clear()
    assert export_merge(registry.parse("ties:density=1"), zoo, tmp_path / "out").kind == "model"
    W = linear_weight(base.get_submodule(name)).float()
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_submodule(name).weight
    torch.testing.assert_close(written, W + delta, rtol=1e-2, atol=1e-3)  # W is read through a bf16 kernel
    own = Base(base)
    updates = Moore(d_t=4, d_s=2, reflections=2).attach(own, 2, Selection())
    initialise(updates, 0)
    install(base, own.modules, updates)
    rounded = {4: 5e-3, 8: 1e-2}[
        bits
    ]  # the kernel of 4 bits computes in bf16, that of 8 rounds its inputs to int8
    torch.testing.assert_close(logits(base), plain, rtol=0, atol=rounded)


def test_files_that_the_bases_hash_does_not_cover_are_refused(tmp_path: Path) -> None:
    import json

    tiny_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "sub").mkdir()
    save_file(load_file(tmp_path / "model.safetensors"), tmp_path / "sub" / "other.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"transformers_weights": "sub/other.safetensors"})
    )
    with pytest.raises(LorafuseError, match="transformers_weights='sub/other.safetensors', which no hash"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(LorafuseError, match="holds an adapter_config.json"):
        load_model(tmp_path)
