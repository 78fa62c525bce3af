"""The traps that other tools fall into, one test each. Figures are in the tests' names or comments."""

from __future__ import annotations

import inspect
import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agreement import adapters
from dense import expert_delta, load_base, total, with_delta
from one_map import MODULE, delta, expert, own, random_experts
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import tiny_model, tiny_zoo, write_adapter
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.export import export_merge
from lorafuse_bench.files import sha256_files
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.merging.elementwise import drop_and_rescale, keep_largest
from lorafuse_bench.fusion.routing.gates import softmax_top_k
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.peft_tensors import WEIGHTS
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import Zoo

pytestmark = pytest.mark.filterwarnings("ignore:method '.*' combines factors")

# Options under which a method promises to give a weighted sum of updates.
SUMS = (
    "ties:density=1+weights={}",
    "dare:density=1+weights={}",
    "dare_ties:density=1+weights={}",
    "knots:density=1+weights={}",
    "knots:merge=linear+weights={}",
)
IDS = torch.tensor([[72, 101, 108, 108, 111]])


def edit_config(folder: Path, **changes: object) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@torch.no_grad()
def fused_logits(zoo: Zoo, spec: str) -> Tensor:
    base = AutoModelForCausalLM.from_pretrained(zoo.base_folder(), dtype=torch.float32)
    FusedModel(base, zoo, ExpertPool.from_zoo(zoo)).use(registry.parse(spec))
    return base(IDS).logits


@pytest.mark.parametrize("spec", ["concat", "svd", "ties:density=1", "dare:density=1", "knots:density=1"])
def test_trap_01_one_rslora_adapter_is_itself(tmp_path: Path, spec: str) -> None:
    """Scaling alpha/√r with alpha ≠ r survives; what has no such scaling (DoRA, a bias) is refused."""
    write_adapter(tmp_path / "experts" / "a", tiny_model(), ("q_proj",), rank=4, alpha=11, use_rslora=True)
    tiny_model().save_pretrained(tmp_path / "base")
    zoo = index_adapters(tmp_path, str(tmp_path / "base"))
    with torch.no_grad():
        peft = PeftModel.from_pretrained(tiny_model(), tmp_path / "experts" / "a")(IDS).logits
    torch.testing.assert_close(fused_logits(zoo, spec), peft, rtol=1e-4, atol=1e-4)
    for change in ({"use_dora": True}, {"lora_bias": True}):
        edit_config(tmp_path / "experts" / "a", **change)
        with pytest.raises(LorafuseError, match="use_dora=True|lora_bias=True"):
            index_adapters(tmp_path, str(tmp_path / "base"))
        with pytest.raises(LorafuseError, match="is another file"):
            ExpertPool.from_zoo(zoo)


@pytest.mark.parametrize(
    "spec", [*(s.format("0.5/0.5") for s in SUMS), "svd:rank=4", "weight_sum:average", "mu"]
)
def test_trap_02_the_same_adapter_at_half_weight_twice_is_itself(spec: str) -> None:
    (e,) = random_experts(1)
    torch.testing.assert_close(delta(spec, [e, replace(e, name="copy")]), own(e), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", [(0.5, 0.5), (1, -1), (0.7, -0.3)])
@pytest.mark.parametrize("spec", [s for s in SUMS if s.startswith(("dare:", "knots:merge=linear"))])
def test_trap_03_sums_have_no_cross_terms(spec: str, weights: tuple[float, float]) -> None:
    one, two = random_experts(2)
    expected = weights[0] * own(one) + weights[1] * own(two)
    got = delta(spec.format("/".join(map(str, weights))), [one, two])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "spec", ["concat", "svd", "weight_sum", "ties", "dare", "knots", "ties:space=factors"]
)
def test_trap_05_unequal_ranks_and_rank_patterns_merge(tmp_path: Path, spec: str) -> None:
    """Ranks 4 and 8, and two adapters whose largest rank is equal through rank_pattern."""
    model = tiny_model()
    model.save_pretrained(tmp_path / "base")
    write_adapter(tmp_path / "experts" / "a", model, ("q_proj",), rank=4)
    write_adapter(tmp_path / "experts" / "b", model, ("q_proj",), rank=8)
    write_adapter(tmp_path / "experts" / "c", model, ("q_proj",), rank=4, layers=[0])
    extra = load_file(tmp_path / "experts" / "c" / WEIGHTS)
    g = torch.Generator().manual_seed(0)
    prefix = "base_model.model.model.layers.1.self_attn.q_proj"
    extra[f"{prefix}.lora_A.weight"] = torch.randn(8, 32, generator=g)
    extra[f"{prefix}.lora_B.weight"] = torch.randn(32, 8, generator=g)
    save_file(extra, tmp_path / "experts" / "c" / WEIGHTS)
    edit_config(tmp_path / "experts" / "c", rank_pattern={"layers.1.self_attn.q_proj": 8})
    pool = ExpertPool.from_zoo(index_adapters(tmp_path, str(tmp_path / "base")))
    assert pool.modules["model.layers.0.self_attn.q_proj"].ranks == (4, 8, 4)
    assert pool.modules["model.layers.1.self_attn.q_proj"].ranks == (4, 8, 8)
    adapter = registry.parse(spec).fuse(pool)  # type: ignore[attr-defined]
    assert set(adapter.factors or adapter.dense) == set(pool.modules)


def test_trap_06_scaling_and_weights_vote() -> None:
    """B A = +1 with scaling 10 outvotes -3 with scaling 1; weights can turn that."""
    one = expert(torch.tensor([[1.0]]), torch.ones(1, 1), 10.0, "one")
    two = expert(torch.tensor([[-3.0]]), torch.ones(1, 1), 1.0, "two")
    assert delta("ties:density=1", [one, two]).item() == 10
    assert delta("ties:density=1+weights=0.1/1", [one, two]).item() == -3
    assert delta("dare_ties:density=1", [one, two]).item() == 10


@pytest.mark.parametrize("spec", ["svd", "svd:rank=2", "weight_sum:weights=1/2", "ties", "knots"])
def test_trap_07_bf16_experts_merge_in_fp32(tmp_path: Path, spec: str) -> None:
    zoo = tiny_zoo(tmp_path, experts=2)
    for folder in adapters(zoo):
        save_file({k: v.bfloat16() for k, v in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    pool = ExpertPool.from_zoo(index_adapters(tmp_path, str(tmp_path / "base")))
    adapter = registry.parse(spec).fuse(pool)  # type: ignore[attr-defined]
    tensors = [*adapter.dense.values(), *(t for pair in adapter.factors.values() for t in pair)]
    assert {t.dtype for t in tensors} == {torch.float32}


@pytest.mark.parametrize("spec", ["concat", "ties"])
def test_trap_08_small_updates_survive_a_bf16_base(tmp_path: Path, spec: str) -> None:
    """At a thousandth of the weights, adding to bf16 weights loses most of the update; beside them, nothing."""
    zoo = tiny_zoo(tmp_path, experts=1)
    for folder in adapters(zoo):
        small = {k: v * (1e-3 if "lora_B" in k else 1) for k, v in load_file(folder / WEIGHTS).items()}
        save_file(small, folder / WEIGHTS)
    zoo = index_adapters(tmp_path, str(tmp_path / "base"))
    base = AutoModelForCausalLM.from_pretrained(zoo.base_folder(), dtype=torch.bfloat16)
    name = "model.layers.0.self_attn.q_proj"
    weight = base.get_submodule(name).weight.detach().clone()
    pool = ExpertPool.from_zoo(zoo)
    wanted = registry.parse(spec).fuse(pool)  # type: ignore[attr-defined]
    exact = wanted.dense[name] if wanted.dense else wanted.factors[name][1] @ wanted.factors[name][0]
    rounded = (weight.float() + exact).bfloat16().float() - weight.float()
    assert (rounded - exact).norm() > 0.3 * exact.norm()
    FusedModel(base, zoo, pool).use(registry.parse(spec))
    layer = base.get_submodule(name)
    assert torch.equal(layer.base.weight, weight)
    applied = layer.update.add_to(torch.zeros(1, 32, 32).bfloat16(), torch.eye(32).bfloat16()[None])[
        0
    ].T.float()
    assert (applied - exact).norm() < 0.01 * exact.norm()


def test_trap_09_modules_to_save_are_refused(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a", tiny_model(), ("q_proj",), modules_to_save=["lm_head"])
    with pytest.raises(LorafuseError, match=r"adapter 'a' uses modules_to_save=\['lm_head'\]"):
        LoraExpert.load(tmp_path / "a", "a", "a")


@pytest.mark.parametrize("spec", ["concat", "dare:density=1+combine=sum"])
def test_trap_10_tied_embeddings_stay_when_the_output_layer_is_adapted(tmp_path: Path, spec: str) -> None:
    """Fused beside the weights and written as a model, the output layer moves and the embeddings do not."""
    model = tiny_model("qwen2")
    assert model.config.tie_word_embeddings
    tiny_zoo(tmp_path / "zoo", experts=1)
    folder = tmp_path / "zoo" / "experts" / "sst2"
    write_adapter(folder, model, ("lm_head",))
    zoo = index_adapters(tmp_path / "zoo", str(tmp_path / "zoo" / "base"))
    reference = load_base(zoo.root)
    reference.lm_head.weight = nn.Parameter(reference.lm_head.weight.detach().clone())  # untied
    with torch.no_grad():
        expected = with_delta(reference, expert_delta(folder))(IDS).logits.float()
    torch.testing.assert_close(fused_logits(zoo, spec), expected, rtol=1e-4, atol=1e-4)
    out = export_merge(registry.parse(spec), zoo, tmp_path / "out").path
    with torch.no_grad():
        written = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)(IDS).logits
    torch.testing.assert_close(written, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", ["concat", "dare:density=1+combine=sum"])
def test_trap_11_fan_in_fan_out(tmp_path: Path, spec: str) -> None:
    """GPT-2 keeps its weights transposed, here non-square (96 x 32): fused, and written as a model."""
    zoo = tiny_zoo(tmp_path / "zoo", "gpt2", experts=2)
    reference = with_delta(load_base(zoo.root), total([expert_delta(path) for path in adapters(zoo)]))
    with torch.no_grad():
        expected = reference(IDS).logits.float()
    torch.testing.assert_close(fused_logits(zoo, spec), expected, rtol=1e-4, atol=1e-4)
    out = export_merge(registry.parse(spec), zoo, tmp_path / "out").path
    base = tiny_model("gpt2")
    model = (
        PeftModel.from_pretrained(base, out)
        if spec == "concat"
        else AutoModelForCausalLM.from_pretrained(out)
    )
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("spec", "share"), [("concat", 1), ("dare:density=1", 0.5), ("ties:density=1", 1)])
def test_trap_12_absent_modules_are_zero_updates(spec: str, share: float) -> None:
    """Of two experts one adapts the module: sums take it whole, means over N by half, TIES' mean leaves zeros out."""
    one, two = random_experts(2)
    elsewhere = replace(two, factors={"other": two.factors[MODULE]}, scaling={"other": 1.0})
    torch.testing.assert_close(delta(spec, [one, elsewhere]), share * own(one), rtol=1e-5, atol=1e-5)


def test_trap_13_name_collisions_and_density_none_are_named() -> None:
    with pytest.raises(LorafuseError, match="two adapters are named 'e0'"):
        ExpertPool([*random_experts(1), *random_experts(1)])
    for name in ("ties", "dare", "dare_ties", "knots"):
        with pytest.raises(LorafuseError, match=f"method '{name}': option density="):
            registry.parse(f"{name}:density=none")


def test_trap_14_dare_hangs_on_neither_order_nor_the_global_generator() -> None:
    experts = random_experts()
    with torch.random.fork_rng():
        first = delta("dare", experts)
        torch.rand(7)
        for order in itertools.permutations(experts):
            torch.testing.assert_close(delta("dare", order), first)
    assert not torch.allclose(delta("dare:seed=1", experts), first)
    draw = torch.ones(50)
    a, b = (drop_and_rescale(draw, 0.5, 0, name, "m") for name in "ab")
    assert not torch.equal(a, b)
    assert not torch.equal(a, drop_and_rescale(draw, 0.5, 0, "a", "n"))


def test_trap_16_arrows_gates_sharpen_with_the_input_as_documented() -> None:
    scores = torch.tensor([1.0, 2.0])
    assert softmax_top_k(3 * scores, 2)[1] > softmax_top_k(scores, 2)[1] + 0.1
    text = inspect.getdoc(registry.methods()["arrow"])
    assert text is not None
    assert "Logits are not normalised" in text


def test_trap_17_another_base_of_the_same_shape_is_refused(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path)
    tiny_model(seed=9).save_pretrained(tmp_path / "base")
    for use in (zoo.base_folder, lambda: export_merge(registry.parse("svd"), zoo, tmp_path / "out")):
        with pytest.raises(LorafuseError, match="is not the one its experts were trained on"):
            use()


@pytest.mark.parametrize("n", [1, 2, 7, 100])
@pytest.mark.parametrize("density", [0, 0.01, 0.07, 0.2, 0.5, 0.999, 1])
def test_trap_18_density_keeps_exactly_its_share(n: int, density: float) -> None:
    """⌈density · n⌉, among distinct and among equal magnitudes."""
    hundredths = round(density * 1000) * n
    expected = -(-hundredths // 1000)
    distinct = torch.randn(n, generator=torch.Generator().manual_seed(n))
    for tensor in (distinct, torch.ones(n)):
        assert int((keep_largest(tensor, density) != 0).sum()) == expected
    kept = keep_largest(distinct, density).abs().sort(descending=True).values[:expected]
    assert torch.equal(kept, distinct.abs().sort(descending=True).values[:expected])


def test_trap_19_files_do_not_hang_on_the_hash_seed(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo", mixed=True)
    code = (
        "import sys; from pathlib import Path; from lorafuse_bench.export import export_merge;"
        " from lorafuse_bench.fusion import registry; from lorafuse_bench.zoo.manifest import Zoo;"
        " zoo, out = sys.argv[1:];"
        " [export_merge(registry.parse(s), Zoo.open(zoo), Path(out, s)) for s in ('concat', 'dare')]"
    )
    digests = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code, str(zoo.root), str(out)], check=True, env=environment)
        digests.append([sha256_files(out / spec, "*.*") for spec in ("concat", "dare")])
    assert digests[0] == digests[1]


def test_trap_20_the_oracle_is_measured_on_the_same_items(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No board without a measured oracle, and none whose items differ from the oracle's."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "leaderboards"))
    from toy_cells import write

    for label in ("base", "svd"):
        write(tmp_path, label, {"one": [1.0, 0.0] * 10})
    with pytest.raises(LorafuseError, match="no oracle"):
        build([tmp_path])
    write(tmp_path, "oracle", {"one": [1.0, 0.0] * 9})
    with pytest.raises(LorafuseError, match=r"tasks\.one\.n"):
        build([tmp_path])
