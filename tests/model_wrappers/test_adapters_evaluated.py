"""Trained adapters through the lm-eval model: a zoo of nothing else, tasks, caches, what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from adapters import REFERENCES, SPECS, dense_model, method_of
from agreement import check, instances
from dense import load_base
from safetensors.torch import load_file, save_file
from tiny import add_adapter, tiny_zoo
from transformers import PreTrainedModel

from lorafuse_bench.analysis.prompts import with_experts
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fused import ADAPTER_WEIGHTS
from lorafuse_bench.fusion import registry
from lorafuse_bench.layers import FusedModule
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.training.adapter_records import adapter_name
from lorafuse_bench.zoo.manifest import Zoo

TASKS = ("sst2", "mnli")  # squad, which is asked for too, was not trained on


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LorafuseLM:
    zoo = tiny_zoo(tmp_path_factory.mktemp(request.param), request.param, experts=0)
    for spec in SPECS:
        zoo = add_adapter(zoo, spec, TASKS)
    return LorafuseLM("base", zoo=zoo.root, device="cpu")


@pytest.mark.parametrize("spec", REFERENCES)
def test_it_scores_and_writes_as_a_dense_model_of_each_task(lm: LorafuseLM, spec: str) -> None:
    """Whatever the batch, the padding and the cached prefix."""
    base = load_base(lm.zoo.root)
    tensors = load_file(lm.zoo.root / "adapters" / adapter_name(method_of(spec), "two") / ADAPTER_WEIGHTS)
    models: dict[str, PreTrainedModel] = {
        task: dense_model(base, spec, tensors, TASKS.index(task) if task in TASKS else None)
        for task in ("sst2", "mnli", "squad")
    }
    check(lm, spec, lambda task, context: models[task])


@pytest.mark.parametrize("spec", SPECS)
def test_scores_do_not_hang_on_batches_or_shared_prefixes(lm: LorafuseLM, spec: str) -> None:
    lm.use(registry.parse(spec))
    found = []
    for batch_size, share in ((1, False), (1, True), (5, True)):
        lm.batch_size_per_gpu, lm.prefix_sharing = batch_size, share
        scores = lm.loglikelihood(instances("loglikelihood"), disable_tqdm=True)
        found.append([score for score, _ in scores])
    assert found[1] == pytest.approx(found[0], abs=1e-4, rel=0)
    assert found[2] == pytest.approx(found[0], abs=1e-4, rel=0)


def test_a_result_names_the_adapter_and_its_size(lm: LorafuseLM) -> None:
    lm.use(registry.parse("lora:rank=3"))
    entry = next(e for e in lm.zoo.manifest.adapters if e.method == "lora")
    info = lm.get_model_info()["lorafuse"]
    assert info["artefacts"] == [{"name": "lora/two-rank=3", "sha256": entry.sha256, "experts": {}}]
    assert info["experts"] == []
    assert info["cost"]["extra_parameters"] == entry.parameters > 0
    lm.use(registry.parse("base"))
    assert not any(isinstance(module, FusedModule) for module in lm.model.modules())
    assert lm.get_model_info()["lorafuse"]["artefacts"] == []


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lora", "no trained adapter 'lora' .*it has: lora/two-rank=3.*lorafuse train adapter --method lora"),
        ("lora:rank=3+trained_on=mtl7", "--method lora:rank=3 --suite mtl7 --out"),
        ("oracle", "method 'oracle' needs experts, and there are none"),
        ("concat", "lorafuse train experts"),
    ],
)
def test_what_is_missing_is_said_in_one_line(lm: LorafuseLM, spec: str, message: str) -> None:
    with pytest.raises(LorafuseError, match=message) as error:
        lm.use(registry.parse(spec))
    assert "\n" not in str(error.value)


def test_an_altered_file_or_another_base_is_refused(tmp_path: Path) -> None:
    zoo = add_adapter(tiny_zoo(tmp_path, experts=0), "lora:rank=3")
    entry = zoo.manifest.adapters[0].model_copy(update={"base_sha256": "0" * 64})
    Zoo(tmp_path, zoo.manifest.model_copy(update={"adapters": (entry,)})).save()
    with pytest.raises(LorafuseError, match="adapter 'lora/two-rank=3' was trained on another base"):
        LorafuseLM("lora:rank=3", zoo=tmp_path, device="cpu")
    zoo.save()
    path = tmp_path / "adapters" / "lora" / "two-rank=3" / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(LorafuseError, match="not the file the manifest describes"):
        LorafuseLM("lora:rank=3", zoo=tmp_path, device="cpu")


@pytest.mark.parametrize("fault", ["absent", "of another shape", "unknown"])
def test_tensors_that_are_not_just_the_adapter_s_are_refused(tmp_path: Path, fault: str) -> None:
    zoo = add_adapter(tiny_zoo(tmp_path, experts=0), "lora:rank=3")
    (entry,) = zoo.manifest.adapters
    path = tmp_path / entry.path / ADAPTER_WEIGHTS
    tensors = load_file(path)
    key = "model.layers.0.mlp.down_proj." + ("C" if fault == "unknown" else "A")
    found = tensors.pop(key, torch.zeros(1))
    save_file(tensors if fault == "absent" else tensors | {key: found[:1]}, path)
    described = entry.model_copy(update={"sha256": sha256_file(path)})
    Zoo(tmp_path, zoo.manifest.model_copy(update={"adapters": (described,)})).save()
    with pytest.raises(LorafuseError, match=f"adapter 'lora/two-rank=3': {key} does not fit the base"):
        with_experts(Zoo.open(tmp_path)).use(registry.parse("lora:rank=3"))
