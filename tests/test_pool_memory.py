"""A pool holds each factor once, in the type the base computes in: loading and evaluating take no second copy."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lorafuse_bench.bench.models import Shape, random_model, random_zoo
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.memory import Alive
from lorafuse_bench.zoo.manifest import Zoo

SHAPE = Shape(hidden_size=64, layers=2, vocabulary=64, rank=4)
EXPERTS = 256
FEW = tuple(f"e{i:03}" for i in range(6))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return random_zoo(tmp_path_factory.mktemp("many"), SHAPE, EXPERTS)[0]


def written(zoo: Zoo) -> int:
    """Bytes of the experts' factors in fp32; all have the same."""
    first, *_ = zoo.manifest.experts
    factors = load_file(zoo.root / first.path / "adapter_model.safetensors")
    return EXPERTS * sum(factor.nbytes for factor in factors.values())


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [
        ("oracle", torch.float32),
        ("spectr", torch.float32),
        ("arrow", torch.float32),
        ("arrow", torch.bfloat16),
        ("merge_uniform", torch.float32),
    ],
)
def test_experts_are_loaded_and_evaluated_in_little_more_than_their_bytes(
    zoo: Zoo, spec: str, dtype: torch.dtype
) -> None:
    with Alive() as alive, torch.no_grad():
        model = random_model(SHAPE).to(dtype)  # type: ignore[arg-type]
        fused = FusedModel(model, zoo, ExpertPool.from_zoo(zoo, dtype=dtype))
        fused.use(registry.parse(spec))
        fused.selection.set(torch.tensor([[0], [5]]).repeat(1, SHAPE.layers))
        model(input_ids=torch.zeros(2, 4, dtype=torch.long))
    base = sum(p.nbytes for p in model.parameters())
    assert alive.peak <= 1.1 * (base + written(zoo) * dtype.itemsize / 4)


def test_pools_of_a_pool_s_experts_are_exact_and_other_types_are_rounded_once(zoo: Zoo) -> None:
    whole, narrow = ExpertPool.from_zoo(zoo, FEW), ExpertPool.from_zoo(zoo, FEW, dtype=torch.bfloat16)
    again = ExpertPool(whole.experts[3:5])
    for module, stack in whole.modules.items():
        assert torch.equal(narrow.wide().modules[module].B, narrow.modules[module].B.float())
        assert torch.equal(again.modules[module].B, stack.B[3:5])
        assert torch.equal(narrow.modules[module].B, stack.B.bfloat16())
        assert ExpertPool(narrow.experts).modules[module].A.dtype == torch.bfloat16


def test_experts_read_their_factors_from_the_pool(zoo: Zoo) -> None:
    pool = ExpertPool.from_zoo(zoo, FEW)

    def place(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    for expert in pool.experts[:2]:
        for module, stack in pool.modules.items():
            assert [place(factor) for factor in expert.scaled(module)] == [place(stack.A), place(stack.B)]
            torch.testing.assert_close(
                expert.factors[module][1] * expert.scaling[module], expert.scaled(module)[1]
            )
