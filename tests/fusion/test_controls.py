"""The controls: random experts of the same norms, and one LoRA on what a fit read; by both commands."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from tiny import tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import static_updates
from lorafuse_bench.fusion.controls import controlled, randomised, with_controls
from lorafuse_bench.layers import StaticUpdate
from lorafuse_bench.loading import load_model
from lorafuse_bench.model_wrappers.options import split_options
from lorafuse_bench.testing.toys import pool_of, toy_experts
from lorafuse_bench.zoo.manifest import Zoo

MODULE = "model.layers.0.self_attn.q_proj"
FIT = "--suite sst2/mnli --data mini --steps 2 --rows 4 --dev 2 --batch-size 2 --lrs 0.1".split()


def test_random_experts_keep_names_ranks_scalings_and_norms_and_nothing_else() -> None:
    pool = pool_of(toy_experts())
    other = randomised(pool)
    assert other.names == pool.names
    for module, stack in pool.modules.items():
        drawn = other.modules[module]
        assert drawn.ranks == stack.ranks
        for i in range(len(pool)):
            assert float(drawn.A[i].norm()) == pytest.approx(float(stack.A[i].norm()), rel=1e-4)
            norms = [float((s.B[i] @ s.A[i]).norm()) for s in (drawn, stack)]
            assert norms[0] == pytest.approx(norms[1], rel=1e-4)
            cosine = torch.cosine_similarity(drawn.A[i].flatten(), stack.A[i].flatten(), dim=0)
            assert abs(cosine) < 0.5
    again = randomised(pool).modules[MODULE]
    assert torch.equal(again.A, other.modules[MODULE].A)
    assert torch.equal(pool.modules[MODULE].A, pool_of(toy_experts()).modules[MODULE].A)


def test_a_zero_update_stays_one() -> None:
    first, *rest = toy_experts()
    none = {m: (a, torch.zeros_like(b)) for m, (a, b) in first.factors.items()}
    zero = type(first)(**{**vars(first), "factors": none})
    drawn = randomised(ExpertPool([zero, *rest])).modules[MODULE]
    assert torch.equal(drawn.B[0], torch.zeros_like(drawn.B[0]))


def test_the_control_is_the_method_under_a_label_of_its_own(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path, experts=2)
    fused = FusedModel(load_model(zoo.base_folder()), zoo, ExpertPool.from_zoo(zoo))
    control = registry.parse("concat:scaling=false+control=random")
    assert control.label() == "concat:scaling=false+control=random"
    assert registry.parse(control.label()) == control != registry.parse("concat:scaling=false")
    fused.use(control)
    expected = static_updates(registry.parse("concat:scaling=false").fuse(randomised(fused.whole)))[MODULE]  # type: ignore[attr-defined]
    got = fused.model.get_submodule(MODULE).update
    assert isinstance(got, StaticUpdate)
    assert isinstance(expected, StaticUpdate)
    torch.testing.assert_close(got.B @ got.A, expected.B @ expected.A)
    fused.use(registry.parse("concat"))
    assert fused.pool is fused.whole


def test_both_routes_name_it() -> None:
    made, left = split_options(
        "ties", {"density": "0.5", "control": "random"}, frozenset(), frozenset(), "hf"
    )
    assert made == registry.parse("ties:density=0.5+control=random")
    assert not left
    named = with_controls([registry.parse(spec) for spec in ("base", "oracle", "merge_sgd")], "budget")
    assert [method.label() for method in named] == ["base", "oracle", "merge_sgd", "merge_sgd:control=budget"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("base:control=random", "fuses no experts"),
        ("ties:control=budget", "has no fit"),
        ("ensemble:weights=lp+control=budget", "has no fit"),
        ("ties:control=else", "neither random nor budget"),
    ],
)
def test_controls_that_there_are_not(spec: str, message: str) -> None:
    with pytest.raises(LorafuseError, match=message):
        registry.parse(spec)
    if spec.startswith("ties:control=b"):
        with pytest.raises(LorafuseError, match="none of these methods"):
            with_controls([registry.parse("ties")], "budget")


def test_controls_are_fitted_and_run_beside_the_method(tmp_path: Path) -> None:
    zoo = tiny_zoo(tmp_path / "zoo", experts=2)
    for control in ([], ["--control", "random"], ["--control", "budget"]):
        done = CliRunner().invoke(app, ["fit", "merge_sgd", "--zoo", str(zoo.root), *FIT, *control])
        assert done.exit_code == 0, done.output
    opened = Zoo.open(zoo.root)
    plain, drawn, budget = opened.manifest.artefacts
    assert plain.sha256 != drawn.sha256
    assert plain.settings["steps"] == budget.settings["steps"] == 2
    assert budget.name.endswith("-control=budget")
    for control in ("random", "budget"):
        command = f"run --methods merge_sgd --control {control} --suites sst2/mnli --data mini --limit 1 --zoo".split()
        done = CliRunner().invoke(app, [*command, str(zoo.root), "--out", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
    cells = {path.name for path in (tmp_path / "out").rglob("merge_sgd*.json")}
    assert {"merge_sgd.json", "merge_sgd@control=random.json", "merge_sgd@control=budget.json"} <= cells


@pytest.mark.parametrize("spec", ["svd:rank=3", "lora_soups:scope=global"])
def test_a_control_travels_to_a_worker(spec: str) -> None:
    """`run --control random --workers 2` sends its methods to other processes."""
    for method in with_controls([registry.parse(spec)], "random"):
        assert pickle.loads(pickle.dumps(method)) == method
    budget = controlled(registry.parse("lora_soups:scope=global"), "budget")
    assert pickle.loads(pickle.dumps(budget)) == budget
