"""How methods are served: which files, for whom, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny import add_adapter, add_router, tiny_zoo
from transformers import AutoModelForCausalLM

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.serving import how_served, serve
from lorafuse_bench.zoo.manifest import Zoo

IDS = torch.arange(20, 40)[None]


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    zoo = add_router(tiny_zoo(tmp_path_factory.mktemp("zoo"), mixed=True))
    return add_adapter(zoo, "lora:rank=2")


@pytest.fixture
def fused(zoo: Zoo) -> FusedModel:
    return FusedModel(load(zoo.base_folder()), zoo, ExpertPool.from_zoo(zoo))


def load(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


@pytest.mark.parametrize("spec", ["svd:rank=2", "concat", "ties"])
@pytest.mark.parametrize(("max_rank", "sizes"), [(None, None), (1, None), (None, (12, 16))])
def test_what_is_served_is_the_merge(
    fused: FusedModel, tmp_path: Path, spec: str, max_rank: int | None, sizes: tuple[int, ...] | None
) -> None:
    fused.use(registry.parse(spec))
    served = serve(fused, tmp_path, max_rank, sizes)
    merged = spec == "ties" or max_rank == 1
    assert served.how == ("merged" if merged else "adapter")
    assert len(served.adapters) == (0 if merged else 1)
    model = load(served.model)
    if served.adapters:
        assert served.rank == {"svd:rank=2": 8, "concat": 16}[spec]
        assert served.targets == ("k_proj", "o_proj", "q_proj", "v_proj")
        model = PeftModel.from_pretrained(model, str(served.adapters[0])).eval()
    torch.testing.assert_close(logits(model), logits(fused.model), rtol=1e-4, atol=1e-4)


def test_routing_serves_every_expert_in_the_pools_order(fused: FusedModel, tmp_path: Path) -> None:
    fused.use(registry.parse("oracle"))
    served = serve(fused, tmp_path)
    assert served.how == "adapters"
    assert [path.name for path in served.adapters] == list(fused.pool.names)
    for i, path in enumerate(served.adapters):
        fused.selection.set(torch.full((1, fused.base.blocks), i))
        model = PeftModel.from_pretrained(load(served.model), str(path)).eval()
        torch.testing.assert_close(logits(model), logits(fused.model), rtol=1e-4, atol=1e-4)


def test_the_base_needs_no_adapter(fused: FusedModel, tmp_path: Path) -> None:
    fused.use(registry.parse("base"))
    served = serve(fused, tmp_path)
    assert (served.how, served.model, served.adapters) == ("base", fused.zoo.base_folder(), ())


@pytest.mark.parametrize("spec", ["arrow", "spectr", "ensemble", "lora:rank=2", "moa:decision=per_block"])
def test_more_than_one_adapter_per_sequence_is_refused_with_what_can_be_served(spec: str) -> None:
    method = registry.parse(spec)
    with pytest.raises(
        LorafuseError, match=r"cannot be served by vLLM\. These can: .*base, .*concat.*moa.*svd"
    ) as error:
        how_served(method)
    assert "\n" not in str(error.value)
    able = str(error.value).partition("These can: ")[2]
    assert "arrow" not in able and "ensemble" not in able and "lora," not in able


def test_an_expert_over_the_limit_is_named(fused: FusedModel, tmp_path: Path) -> None:
    fused.use(registry.parse("oracle"))
    with pytest.raises(LorafuseError, match="adapter 'sst2' has rank 2, over max_lora_rank=1"):
        serve(fused, tmp_path, 1)
    with pytest.raises(LorafuseError, match="max_lora_rank=9: vLLM takes only 1, 8, 16"):
        serve(fused, tmp_path, 9)
