"""Maps merged several at a time: the same results, in order, whatever the number of threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from one_map import random_experts
from threadpoolctl import threadpool_info, threadpool_limits

from lorafuse_bench.experts import ExpertPool, LoraExpert, ModuleStack
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Merge
from lorafuse_bench.fusion.merging.maps import MOST, each_map


def many_maps(count: int = 9) -> ExpertPool:
    """Three experts of so many maps, each with numbers of its own."""
    experts = random_experts()
    names = [f"layers.{i}.q_proj" for i in range(count)]

    def of(expert: LoraExpert) -> LoraExpert:
        ((a, b),), (scaling,) = expert.factors.values(), expert.scaling.values()
        factors = {name: (a + i, b - i) for i, name in enumerate(names)}
        return LoraExpert(**{**vars(expert), "factors": factors, "scaling": dict.fromkeys(names, scaling)})

    return ExpertPool(of(expert) for expert in experts)


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "spec", ["svd", "knots", "ties", "dare", "core_space", "tsv", "iso_c", "iso_cts", "sce"]
)
def test_a_merge_of_many_maps_is_that_of_each_alone(spec: str, threads: int) -> None:
    method, pool = registry.parse(spec), many_maps()
    assert isinstance(method, Merge)
    whole = method.fuse(pool)
    made = {**whole.factors, **whole.dense}
    assert list(made) == list(pool.modules)
    for name, stack in pool.modules.items():
        alone = ExpertPool(pool.experts)
        alone.modules = {name: stack}
        single = method.fuse(alone)
        torch.testing.assert_close(made[name], {**single.factors, **single.dense}[name], rtol=0, atol=0)


def test_a_merge_has_one_thread_and_the_rest_is_put_back(threads: int) -> None:
    """Torch's, NumPy's and SciPy's threads on the same cores would wait for each other; and no more maps than asked."""

    def blas() -> set[int]:
        return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    seen, inside, most, lock = set(), 0, 0, threading.Lock()

    def merge(module: str, stack: ModuleStack) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        seen.add((torch.get_num_threads(), *blas(), torch.is_grad_enabled()))
        with lock:
            inside -= 1

    with threadpool_limits(2, "blas"), torch.no_grad():
        each_map(many_maps(), merge)
        assert blas() == {2}
    assert seen == {(1, 1, False)}
    assert 1 <= most <= min(threads, MOST)
    assert torch.get_num_threads() == threads


def test_what_goes_wrong_in_a_map_is_raised(threads: int) -> None:
    def merge(module: str, stack: ModuleStack) -> None:
        if module.startswith("layers.4."):
            raise ArithmeticError(module)

    with pytest.raises(ArithmeticError, match="layers.4"):
        each_map(many_maps(), merge)
    assert torch.get_num_threads() == threads


def test_only_a_few_maps_are_asked_for_ahead(threads: int) -> None:
    """Of wide stacks each one asked for is made: all at once would be the experts' memory again."""
    pool, asked, done = many_maps(), 0, 0

    def tell() -> None:
        nonlocal asked
        asked += 1
        assert asked - done <= threads

    def merge(module: str, stack: ModuleStack) -> None:
        nonlocal done
        done += 1

    each_map(pool.watched(tell), merge)
    assert done == 9
