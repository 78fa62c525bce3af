"""zoo index: where adapters are found, what is named, and what does not fit its base."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_model, write_adapter

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.peft_tensors import WEIGHTS
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    tiny_model().save_pretrained(folder)
    return str(folder)


def adapter(root: Path, *where: str, **settings: object) -> Path:
    folder = root.joinpath("experts", *where)
    write_adapter(folder, tiny_model(), ("q_proj",), **settings)  # type: ignore[arg-type]
    return folder


def test_an_adapter_that_peft_saved_under_its_name_is_found(tmp_path: Path, base: str) -> None:
    model = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]), adapter_name="mnli")
    model.save_pretrained(tmp_path / "experts" / "mnli")
    adapter(tmp_path, "sst2")
    zoo = index_adapters(tmp_path, base)
    assert [(e.name, e.task, e.path) for e in zoo.manifest.experts] == [
        ("mnli", "mnli", "experts/mnli/mnli"),
        ("sst2", "sst2", "experts/sst2"),
    ]
    assert ExpertPool.from_zoo(Zoo.open(tmp_path)).names == ("mnli", "sst2")


def test_checkpoints_inside_an_adapter_are_named_and_left_out(tmp_path: Path, base: str) -> None:
    adapter(tmp_path, "sst2")
    adapter(tmp_path, "sst2", "checkpoint-500")
    (tmp_path / "experts" / "empty").mkdir()
    told: list[str] = []
    zoo = index_adapters(tmp_path, base, report=told.append)
    assert [e.path for e in zoo.manifest.experts] == ["experts/sst2"]
    assert told == [
        "left out, holding no adapter_config.json: empty",
        "left out, being inside sst2: sst2/checkpoint-500",
    ]


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        (("checkpoint-10", "checkpoint-20"), r"only checkpoints \(mnli/checkpoint-10, mnli/checkpoint-20\)"),
        (("checkpoint-10",), r"only checkpoints \(mnli/checkpoint-10\)"),
        (("a", "b"), r"several adapters \(mnli/a, mnli/b\)"),
    ],
)
def test_a_folder_that_does_not_hold_one_adapter_is_refused(
    tmp_path: Path, base: str, inside: tuple[str, ...], message: str
) -> None:
    for name in inside:
        adapter(tmp_path, "mnli", name)
    with pytest.raises(LorafuseError, match=message):
        index_adapters(tmp_path, base)


def test_an_adapter_in_experts_itself_is_refused(tmp_path: Path, base: str) -> None:
    adapter(tmp_path)
    with pytest.raises(LorafuseError, match="there is an adapter in .*experts itself"):
        index_adapters(tmp_path, base)


@pytest.mark.parametrize("name", ["a,b", "a+b", "@mbc"])
def test_a_name_that_no_list_could_hold_is_refused(tmp_path: Path, base: str, name: str) -> None:
    """`--experts a,b` would mean two experts, `oracle:expert=a+b` two options, `@mbc` a bank."""
    adapter(tmp_path, "sst2")
    with pytest.raises(LorafuseError, match=f"task of expert 'sst2' '{re.escape(name)}' cannot be a name"):
        index_adapters(tmp_path, base, tasks={"sst2": [name]})
    adapter(tmp_path, name)
    with pytest.raises(LorafuseError, match=f"the expert's folder '{re.escape(name)}' cannot be a name"):
        index_adapters(tmp_path, base)
    assert not (tmp_path / "manifest.json").exists()


def test_adapters_that_name_different_bases_are_told(tmp_path: Path, base: str) -> None:
    adapter(tmp_path, "sst2", base_model_name_or_path="user/one")
    adapter(tmp_path, "mnli", base_model_name_or_path="user/two")
    told: list[str] = []
    index_adapters(tmp_path, base, report=told.append)
    (line,) = told
    assert line.startswith("the adapters name different bases: user/two (mnli); user/one (sst2).")


@pytest.mark.parametrize(
    "wrapped",
    [
        "_orig_mod.base_model.model.{}",
        "module.base_model.model.{}",
        "base_model.model._orig_mod.{}",
        "module._orig_mod.base_model.model.{}",
        "base_model.model._fsdp_wrapped_module.{}",
    ],
)
def test_names_that_torchs_wrappers_leave_are_read_through(tmp_path: Path, base: str, wrapped: str) -> None:
    folder = adapter(tmp_path, "sst2")
    plain = load_file(folder / WEIGHTS)
    save_file(
        {wrapped.format(k.removeprefix("base_model.model.")): v for k, v in plain.items()}, folder / WEIGHTS
    )
    pool = ExpertPool.from_zoo(index_adapters(tmp_path, base))
    assert list(pool.modules) == [f"model.layers.{i}.self_attn.q_proj" for i in range(3)]


def test_modules_and_shapes_are_held_against_the_base(tmp_path: Path, base: str) -> None:
    folder = adapter(tmp_path, "sst2")
    tensors = load_file(folder / WEIGHTS)
    save_file({k.replace("q_proj", "query"): v for k, v in tensors.items()}, folder / WEIGHTS)
    with pytest.raises(
        LorafuseError, match=r"adapter 'sst2' updates .*\.query, which the base model does not"
    ):
        index_adapters(tmp_path, base)
    save_file({k.replace("q_proj", "k_proj"): v for k, v in tensors.items()}, folder / WEIGHTS)
    with pytest.raises(LorafuseError, match="as 32x32, the base model's is 16x32"):
        index_adapters(tmp_path, base)
    assert not (tmp_path / "manifest.json").exists()


def test_an_encoder_decoder_base_is_refused_in_one_line(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    shape = {"vocab_size": 32, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path / "t5")
    adapter(tmp_path, "sst2")
    with pytest.raises(LorafuseError, match="encoder-decoder model, and only decoders are fused") as error:
        index_adapters(tmp_path, str(tmp_path / "t5"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(4, dtype=torch.float32), "has shape \\[4\\] and is not a matrix"),
        (torch.tensor(1.0), "has shape \\[\\] and is not a matrix"),
        (torch.ones(0, 32), "saved from ZeRO-3 or FSDP shards must be gathered"),
        (torch.ones(4, 32, 1), "is not a matrix"),
        (torch.ones(4, 32).to(torch.float8_e4m3fn), "is of type float8_e4m3fn"),
        (torch.ones(4, 32, dtype=torch.int32), "is of type int32"),
        (torch.ones(4, 32, dtype=torch.bool), "is of type bool"),
        (torch.ones(4, 32, dtype=torch.complex64), "is of type complex64"),
        (torch.full((4, 32), 1e300, dtype=torch.float64), "more than fp32 holds"),
    ],
)
def test_tensors_that_are_no_factors_are_refused(
    tmp_path: Path, base: str, tensor: torch.Tensor, message: str
) -> None:
    folder = adapter(tmp_path, "sst2")
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file(load_file(folder / WEIGHTS) | {key: tensor}, folder / WEIGHTS)
    with pytest.raises(LorafuseError, match=message) as error:
        index_adapters(tmp_path, base)
    assert "adapter 'sst2'" in str(error.value) and "\n" not in str(error.value)


def test_a_second_file_of_weights_is_refused(tmp_path: Path, base: str) -> None:
    folder = adapter(tmp_path, "sst2")
    (folder / "adapter_model.bin").write_bytes(b"x")
    with pytest.raises(LorafuseError, match=r"adapter 'sst2': .* holds adapter_model\.bin beside"):
        index_adapters(tmp_path, base)


def test_two_experts_of_one_task_are_named_where_one_is_asked_for(tmp_path: Path, base: str) -> None:
    adapter(tmp_path, "sst2")
    adapter(tmp_path, "sst2b")
    index_adapters(tmp_path, base)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["experts"][1]["tasks"] = ["sst2"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    pool = ExpertPool.from_zoo(Zoo.open(tmp_path))
    with pytest.raises(
        LorafuseError, match="task 'sst2' is served by experts sst2, sst2b. Choose one: oracle:expert=sst2"
    ):
        pool.index_of_task("sst2")
