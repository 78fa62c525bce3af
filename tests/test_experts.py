"""ExpertPool: scaling, padding, hashes, and every refusal by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_zoo, write_adapter

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.peft_tensors import WEIGHTS
from lorafuse_bench.zoo.manifest import Zoo

PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj", "v_proj"))
    return tmp_path / "a"


def load(path: Path, name: str = "a") -> LoraExpert:
    return LoraExpert.load(path, name, name)


def edit_config(path: Path, **changes: object) -> None:
    file = path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def edit_tensors(path: Path, **tensors: torch.Tensor) -> None:
    held = load_file(path / WEIGHTS)
    save_file(
        held | {f"{PREFIX}.{key.replace('__', '.')}": value for key, value in tensors.items()}, path / WEIGHTS
    )


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("alpha", [4, 7])
def test_one_adapter_is_itself_with_rslora_and_alpha_unlike_rank(
    tmp_path: Path, rslora: bool, alpha: int
) -> None:
    """Trap 1: the folded update equals PEFT's own forward, with rank and alpha patterns too."""
    config = LoraConfig(
        r=4,
        lora_alpha=alpha,
        use_rslora=rslora,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        rank_pattern={"layers.1.self_attn.q_proj": 6},
        alpha_pattern={"layers.2.self_attn.v_proj": 11},
    )
    torch.manual_seed(0)
    peft_model = get_peft_model(tiny_model(), config)
    peft_model.save_pretrained(tmp_path / "a")
    pool = ExpertPool([load(tmp_path / "a")])
    reloaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "a")
    layers = {n: m for n, m in reloaded.named_modules() if hasattr(m, "get_delta_weight")}
    assert len(layers) == len(pool.modules) == 6
    for name, layer in layers.items():
        stack = pool.modules[name.removeprefix("base_model.model.")]
        torch.testing.assert_close(stack.B[0] @ stack.A[0], layer.get_delta_weight("default"))


def test_stacks_pad_ranks_and_absent_modules_with_zeros(tmp_path: Path) -> None:
    """Traps 5 and 12: unequal ranks stack, and an absent module is a zero update."""
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj",), rank=2, seed=1)
    write_adapter(tmp_path / "b", tiny_model(), ("q_proj", "k_proj"), rank=5, seed=2, layers=[0])
    pool = ExpertPool([load(tmp_path / "a"), load(tmp_path / "b", "b")])
    both = pool.modules["model.layers.0.self_attn.q_proj"]
    assert both.ranks == (2, 5)
    assert both.A.shape == (2, 5, 32)
    assert not both.A[0, 2:].any()
    assert not both.B[0, :, 2:].any()
    only_b = pool.modules["model.layers.0.self_attn.k_proj"]
    assert only_b.ranks == (0, 5)
    assert not only_b.B[0].any()
    assert pool.modules["model.layers.2.self_attn.q_proj"].ranks == (2, 0)


def test_modules_are_in_natural_order(tmp_path: Path) -> None:
    """Trap 19: tensor order does not depend on sets, and layer 2 comes before layer 10."""
    write_adapter(tmp_path / "a", tiny_model(layers=11), ("q_proj",))
    blocks = [int(name.split(".")[2]) for name in ExpertPool([load(tmp_path / "a")]).modules]
    assert blocks == list(range(11))


def test_bf16_adapters_are_fused_in_fp32(adapter: Path) -> None:
    """Trap 7."""
    save_file({k: v.bfloat16() for k, v in load_file(adapter / WEIGHTS).items()}, adapter / WEIGHTS)
    stack = next(iter(ExpertPool([load(adapter)]).modules.values()))
    assert stack.A.dtype == stack.B.dtype == torch.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "use_dora=True"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"r": 0}, "r must be"),
        ({"lora_alpha": "x"}, "lora_alpha"),
    ],
)
def test_configurations_that_are_not_plain_lora_are_refused(
    adapter: Path, changes: dict[str, object], message: str
) -> None:
    """Traps 1 and 9: what would be silently dropped elsewhere is refused, naming the adapter."""
    edit_config(adapter, **changes)
    with pytest.raises(LorafuseError, match=message) as error:
        load(adapter)
    assert "adapter 'a'" in str(error.value)
    assert "\n" not in str(error.value)


def test_pickles_are_refused_by_name(adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(LorafuseError, match=r"adapter 'a'.*adapter_model\.bin is a pickle"):
        load(adapter)


def test_damaged_and_missing_files_are_refused(adapter: Path, tmp_path: Path) -> None:
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:100])
    with pytest.raises(LorafuseError, match="damaged"):
        load(adapter)
    with pytest.raises(LorafuseError, match="adapter_config.json cannot be read"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_finite_factors_are_refused(adapter: Path, value: float) -> None:
    edit_tensors(adapter, lora_A__weight=torch.full((4, 32), value))
    with pytest.raises(LorafuseError, match="NaN or infinity"):
        load(adapter)


def test_unpaired_and_foreign_tensors_are_refused(adapter: Path) -> None:
    edit_tensors(adapter, lora_A__weight=torch.ones(3, 32))
    with pytest.raises(LorafuseError, match="do not fit each other"):
        load(adapter)
    edit_tensors(adapter, lora_magnitude_vector=torch.ones(3))
    with pytest.raises(LorafuseError, match="unexpected tensor"):
        load(adapter)


def test_pools_refuse_emptiness_equal_names_and_other_shapes(adapter: Path, tmp_path: Path) -> None:
    """Trap 13: a name that exists already is never silently the old adapter."""
    with pytest.raises(LorafuseError, match="method 'moa' needs experts, and there are none"):
        ExpertPool([]).required_by("method 'moa'")
    with pytest.raises(LorafuseError, match="two adapters are named 'a'"):
        ExpertPool([load(adapter), load(adapter)])
    other = tmp_path / "b"
    write_adapter(other, tiny_model(), ("q_proj",))
    edit_tensors(other, lora_A__weight=torch.ones(4, 40))
    with pytest.raises(LorafuseError, match="adapter 'b' updates .* as 32x40, adapter 'a' as 32x32"):
        ExpertPool([load(adapter), load(other, "b")])


def test_zoo_adapters_of_another_base_or_altered_are_refused(tmp_path: Path) -> None:
    """Trap 17: an adapter does not load onto another base of the same shape."""
    zoo = tiny_zoo(tmp_path)
    entries = zoo.manifest.experts
    foreign = (entries[0].model_copy(update={"base_sha256": "0" * 64}), *entries[1:])
    with pytest.raises(LorafuseError, match="adapter 'sst2' .* another base"):
        ExpertPool.from_zoo(Zoo(tmp_path, zoo.manifest.model_copy(update={"experts": foreign})))
    write_adapter(tmp_path / "experts" / "mnli", tiny_model(), ("q_proj",), seed=99)
    with pytest.raises(LorafuseError, match="adapter 'mnli' .* is not the file the manifest describes"):
        ExpertPool.from_zoo(zoo)
    with pytest.raises(LorafuseError, match=r"unknown expert .*'mnl'.* Did you mean 'mnli'"):
        ExpertPool.from_zoo(zoo, ["mnl"])


def test_altered_base_is_refused(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    tiny_model(seed=5).save_pretrained(tmp_path / "base")
    with pytest.raises(LorafuseError, match="not the one its experts were trained on"):
        zoo.base_folder()


def test_unknown_task_lists_what_is_covered(tmp_path: Path) -> None:
    pool = ExpertPool.from_zoo(tiny_zoo(tmp_path))
    assert pool.index_of_task("squad") == 2
    with pytest.raises(LorafuseError, match="no expert for task 'gsm8k': the pool covers sst2, mnli, squad"):
        pool.index_of_task("gsm8k")
