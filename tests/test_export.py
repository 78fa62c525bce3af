"""Exported merges load in PEFT and in stock lm-eval and score the same as the fused model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from agreement import ARCHITECTURES, instances
from lm_eval.models.huggingface import HFLM
from peft import PeftModel
from safetensors.torch import load_file
from tiny import byte_tokenizer, tiny_model, tiny_zoo, write_adapter
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from lorafuse_bench import cli, export
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import LoraExpert
from lorafuse_bench.export import export_experts, export_merge
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fusion import registry
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.zoo.index import index_adapters
from lorafuse_bench.zoo.manifest import Zoo

pytestmark = pytest.mark.filterwarnings("ignore:method '.*' combines factors")


@pytest.fixture(scope="module", params=ARCHITECTURES)
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp(request.param), request.param, mixed=True)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("plain"), "qwen2", mixed=True)


def scores(lm: HFLM) -> list[float]:
    return [score for score, _ in lm.loglikelihood(instances("loglikelihood"), disable_tqdm=True)]


def stock(**arguments: object) -> HFLM:
    """lm-eval's own model, as `lm_eval --model hf` makes it.

    Qwen2's tokenizer class adds a token to the tiny vocabulary, and with `peft=` lm-eval would resize the
    model to it: hence the tokenizer as it is.
    """
    return HFLM(tokenizer=byte_tokenizer(), batch_size=3, device="cpu", dtype="float32", **arguments)


def exported_lm(written: export.Exported) -> HFLM:
    if written.kind == "model":
        return stock(pretrained=str(written.path))
    return stock(pretrained=written.base, peft=str(written.path))


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("svd", "adapter"),
        ("concat", "adapter"),
        ("weight_sum", "adapter"),
        ("mu", "adapter"),
        ("knots", "adapter"),
        ("ties:space=factors", "adapter"),
        ("ties", "model"),
        ("dare", "model"),
    ],
)
def test_stock_lm_eval_scores_the_same(zoo: Zoo, tmp_path: Path, spec: str, kind: str) -> None:
    written = export_merge(registry.parse(spec), zoo, tmp_path / "merged")
    assert written.kind == kind
    fused = LorafuseLM("base", zoo=zoo.root, batch_size=3, device="cpu")
    base = scores(fused)
    fused.use(registry.parse(spec))
    exported = exported_lm(written)
    assert scores(exported) == pytest.approx(scores(fused), abs=1e-4)
    assert scores(fused) != pytest.approx(base, abs=1e-2), (
        "too small an update for this test to mean anything"
    )
    texts = [lm.generate_until(instances("generate_until"), disable_tqdm=True) for lm in (exported, fused)]
    assert texts[0] == texts[1]


def test_adapter_scales_every_module_by_one_with_its_own_rank(zoo: Zoo, tmp_path: Path) -> None:
    """Ranks 2, 4, 6 and partial targets: concat has rank 12 or 8; peft reads the patterns as meant."""
    export_merge(registry.parse("concat"), zoo, tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["fan_in_fan_out"] == ("gpt2" in str(zoo.root))
    assert config["rank_pattern"] == config["alpha_pattern"] != {}
    base = AutoModelForCausalLM.from_pretrained(zoo.base_folder(), dtype=torch.float32)
    model = PeftModel.from_pretrained(base, str(tmp_path / "a"))
    layers = [m for m in model.modules() if hasattr(m, "get_delta_weight")]
    assert {layer.scaling["default"] for layer in layers} == {1.0}
    assert {layer.r["default"] for layer in layers} == {8, 12}
    expert = LoraExpert.load(tmp_path / "a", "a", "a")
    assert set(expert.scaling.values()) == {1.0}


def test_all_exports_every_expert(zoo: Zoo, tmp_path: Path) -> None:
    written = export_experts(zoo, tmp_path / "all")
    assert [one.path.name for one in written] == [entry.name for entry in zoo.manifest.experts]
    for one, entry in zip(written, zoo.manifest.experts, strict=True):
        original = stock(pretrained=one.base, peft=str(zoo.root / entry.path))
        assert scores(exported_lm(one)) == pytest.approx(scores(original), abs=1e-4)


def test_an_exported_adapter_is_an_expert_again(plain: Zoo, tmp_path: Path) -> None:
    export_experts(plain, tmp_path / "zoo" / "experts")
    again = index_adapters(tmp_path / "zoo", str(plain.base_folder()))
    assert [entry.name for entry in again.manifest.experts] == sorted(e.name for e in plain.manifest.experts)


def tied_zoo(root: Path) -> Zoo:
    """Qwen2 with tied embeddings and experts that also adapt its output layer."""
    tiny_zoo(root, "qwen2", experts=2)
    model = tiny_model("qwen2")
    for i, name in enumerate(("sst2", "mnli")):
        write_adapter(root / "experts" / name, model, ("q_proj", "lm_head"), seed=i)
    return index_adapters(root, str(root / "base"))


@pytest.mark.parametrize("spec", ["svd", "ties"])
def test_an_adapted_output_layer_leaves_tied_embeddings_alone(tmp_path: Path, spec: str) -> None:
    zoo = tied_zoo(tmp_path / "zoo")
    written = export_merge(registry.parse(spec), zoo, tmp_path / "out")
    assert written.kind == "model"
    with pytest.raises(LorafuseError, match="'mnli' adapts the output layer or the embeddings, which share"):
        export_experts(zoo, tmp_path / "all")
    exported = exported_lm(written)
    fused = LorafuseLM(spec, zoo=zoo.root, batch_size=3, device="cpu")
    assert scores(exported) == pytest.approx(scores(fused), abs=1e-4)
    embeddings = exported.model.get_input_embeddings().weight
    assert torch.equal(embeddings, tiny_model("qwen2").get_input_embeddings().weight)


def test_full_models_hold_the_sum_in_fp32_even_of_a_bf16_base(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo", experts=2)
    model = AutoModelForCausalLM.from_pretrained(zoo.root / "base", dtype=torch.bfloat16)
    model.save_pretrained(zoo.root / "base")
    zoo = index_adapters(zoo.root, str(zoo.root / "base"))
    export_merge(registry.parse("ties"), zoo, tmp_path / "out")
    name = "model.layers.0.self_attn.q_proj"
    before = load_file(zoo.root / "base" / "model.safetensors")[f"{name}.weight"].float()
    after = load_file(tmp_path / "out" / "model.safetensors")[f"{name}.weight"]
    merge = registry.parse("ties")
    pool = export.ExpertPool.from_zoo(zoo)
    torch.testing.assert_close(after - before, merge.fuse(pool).dense[name], rtol=0, atol=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("spec", ["arrow", "spectr", "moa", "oracle", "base"])
def test_methods_that_are_not_one_adapter_are_refused(plain: Zoo, tmp_path: Path, spec: str) -> None:
    with pytest.raises(LorafuseError, match=rf"'{spec}' does not collapse .*concat.*ties"):
        export_merge(registry.parse(spec), plain, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(plain: Zoo, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(LorafuseError, match="not empty"):
        export_merge(registry.parse("svd"), plain, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interruption_leaves_nothing(plain: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        export_merge(registry.parse("svd"), plain, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_adapter_that_does_not_fit_the_base_is_refused(plain: Zoo, tmp_path: Path) -> None:
    other = tiny_zoo(tmp_path / "zoo", "qwen2")
    write_adapter(other.root / "experts" / "sst2", tiny_model("llama", layers=5), ("q_proj",))
    with pytest.raises(LorafuseError, match=r"'sst2' updates model\.layers\.3\.self_attn\.q_proj, which"):
        export_merge(
            registry.parse("svd"), index_adapters(other.root, str(other.root / "base")), tmp_path / "out"
        )


def test_command(plain: Zoo, tmp_path: Path) -> None:
    def invoke(*arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(cli.app, ["export", "--zoo", str(plain.root), *arguments])
        return result.exit_code, result.output

    out = tmp_path / "svd"
    code, text = invoke("--method", "svd:rank=2", "--experts", "sst2,mnli", "--out", str(out))
    assert code == 0
    assert f"peft={out}" in text.replace("\n", "")
    made = json.loads((out / export.PROVENANCE).read_text())
    assert made["method"] == "svd:rank=2"
    assert list(made["experts"]) == ["mnli", "sst2"]
    assert made["experts"]["sst2"] == sha256_file(plain.root / "experts/sst2/adapter_model.safetensors")
    code, text = invoke("--all", "--out", str(tmp_path / "all"))
    assert code == 0
    assert "3 adapters" in text
    code, text = invoke("--all", "--vllm-cpu", "--out", str(tmp_path / "wide"))
    assert code == 0
    assert f"pretrained={tmp_path / 'wide' / 'base'},peft=" in text.replace("\n", "")
    config = json.loads((tmp_path / "wide" / "mnli" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "wide" / "base")
    assert sorted(p.name for p in (tmp_path / "wide").iterdir()) == ["base", "mnli", "squad", "sst2"]
    assert invoke("--method", "svd", "--vllm-cpu", "--out", str(tmp_path / "x"))[0] == 2
    assert invoke("--out", str(tmp_path / "x"))[0] == 2
    assert invoke("--method", "svd", "--all", "--out", str(tmp_path / "x"))[0] == 2
    assert invoke("--method", "moa", "--out", str(tmp_path / "x"))[0] == 2
