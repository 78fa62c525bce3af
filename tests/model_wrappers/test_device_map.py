"""A base in parts: `parallelize=True` spreads it over GPUs, memory and disk; updates compute where their layers do."""

from __future__ import annotations

from pathlib import Path

import pytest
from agreement import instances
from tiny import add_adapter, add_router, tiny_zoo

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion import registry
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.zoo.manifest import Zoo

ADAPTERS = ("lora:rank=3", "moore:d_t=5+d_s=3+reflections=4", "mixlora:rank=3+experts=4")


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    made = add_router(tiny_zoo(tmp_path_factory.mktemp("parts"), "llama", experts=3))
    for spec in (*ADAPTERS, "full_finetune"):
        made = add_adapter(made, spec)
    return made


def spread(zoo: Zoo, folder: Path, share: float) -> LorafuseLM:
    """The model with this share of its base's bytes in memory and the rest on disk."""
    size = sum(file.stat().st_size for file in (zoo.root / "base").glob("*.safetensors"))
    return LorafuseLM(
        "base",
        zoo=zoo.root,
        device="cpu",
        batch_size=4,
        parallelize=True,
        max_cpu_memory=int(size * share),
        offload_folder=str(folder),
    )


def test_scores_and_texts_are_those_of_a_base_in_one_piece(zoo: Zoo, tmp_path: Path) -> None:
    whole, parts = LorafuseLM("base", zoo=zoo.root, device="cpu", batch_size=4), spread(zoo, tmp_path, 0.6)
    assert set(parts.model.hf_device_map.values()) == {"cpu", "disk"}
    scored, asked = instances("loglikelihood")[:4], instances("generate_until")[:2]
    for spec in ("oracle", "concat", "arrow", "moa", "ensemble", *ADAPTERS):
        for lm in (whole, parts):
            lm.use(registry.parse(spec))
        expected = [score for score, _ in whole.loglikelihood(scored, disable_tqdm=True)]
        found = [score for score, _ in parts.loglikelihood(scored, disable_tqdm=True)]
        assert found == pytest.approx(expected, abs=1e-4, rel=0), spec
    texts = [lm.generate_until(asked, disable_tqdm=True) for lm in (whole, parts)]
    assert texts[0] == texts[1]
    with pytest.raises(LorafuseError, match="some of the base's are on disk"):
        parts.use(registry.parse("full_finetune"))


def test_too_little_memory_for_the_first_layers_is_said(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(LorafuseError, match="first layers of the base .* are on disk"):
        spread(zoo, tmp_path, 0.01)


def test_tensor_parallelism_is_refused(zoo: Zoo) -> None:
    with pytest.raises(LorafuseError, match="parallelize=true"):
        LorafuseLM("base", zoo=zoo.root, device="cpu", tp_plan="auto")
