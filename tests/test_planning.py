"""What `lorafuse plan` counts on shapes is what a model that fits here takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lorafuse_bench.base_model import Base
from lorafuse_bench.bench.models import Shape, random_model, random_zoo
from lorafuse_bench.cli import app
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, initialise
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.layers import Selection, install
from lorafuse_bench.memory import Alive
from lorafuse_bench.planning import Experts, Work, memory_of
from lorafuse_bench.zoo.manifest import Zoo

SHAPE = Shape(hidden_size=128, layers=2, vocabulary=512, rank=4)
EXPERTS = 16
ROWS, TOKENS, ANSWER = 4, 64, 8
WORK = Work(ROWS, TOKENS, ANSWER)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return random_zoo(tmp_path_factory.mktemp("plan"), SHAPE, EXPERTS)[0]


def measured(zoo: Zoo, method: FusionMethod) -> int:
    """The most bytes of tensors at once from loading a model to the scores of one batch."""
    with Alive() as alive, torch.no_grad():
        pool = ExpertPool.from_zoo(zoo) if method.fuses_experts else ExpertPool([])
        fused = FusedModel(random_model(SHAPE), zoo, pool)
        fused.use(method)
        alive.restart()
        fused.selection.set(torch.arange(ROWS)[:, None].repeat(1, SHAPE.layers))
        passed = fused.model.base_model(input_ids=torch.zeros(ROWS, TOKENS, dtype=torch.long), use_cache=True)
        logits = fused.model.get_output_embeddings()(passed.last_hidden_state[:, -ANSWER:])
        logits.clone().float().log_softmax(-1)
    return alive.peak


@pytest.mark.parametrize(
    "spec", ["base", "oracle", "concat", "svd:rank=3", "ties", "knots", "arrow", "spectr"]
)
def test_a_plan_is_within_15_per_cent_of_what_is_measured(zoo: Zoo, spec: str) -> None:
    method = registry.parse(spec)
    planned = memory_of(zoo.base_folder(), method, Experts(EXPERTS, 4), WORK, torch.float32)
    assert planned.total == pytest.approx(measured(zoo, method), rel=0.15)


@pytest.mark.parametrize("spec", ["lora:rank=8", "moore:d_t=8+d_s=4", "full_finetune"])
def test_of_training_too(zoo: Zoo, spec: str) -> None:
    method = registry.parse(spec)
    assert isinstance(method, TrainedAdapter)
    with Alive() as alive:
        model = random_model(SHAPE).requires_grad_(False)
        base, selection = Base(model), Selection()
        updates = method.attach(base, 2, selection)
        initialise(updates, 0)
        install(model, base.modules, updates)
        optimizer = torch.optim.Adam([p for update in updates.values() for p in update.parameters()])
        for _ in range(2):  # Adam's moments are made by the first step
            alive.restart()
            selection.set(torch.arange(ROWS)[:, None].repeat(1, SHAPE.layers) % 2)
            ids = torch.zeros(ROWS, TOKENS, dtype=torch.long)
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            model.get_output_embeddings()(hidden[:, -ANSWER:]).logsumexp(-1).sum().backward()
            hidden = None
            optimizer.step()
            optimizer.zero_grad()
    planned = memory_of(
        zoo.base_folder(), method, Experts(), replace(WORK, train=True), torch.float32, tasks=2
    )
    assert planned.total == pytest.approx(alive.peak, rel=0.15)


def test_what_cannot_be_planned_is_said_in_a_line(tmp_path: Path) -> None:
    random_model(Shape(hidden_size=64, layers=1)).save_pretrained(tmp_path)

    def told(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["plan", "--base", str(tmp_path), *arguments])
        assert result.exit_code == 2
        return result.stderr

    assert "needs experts" in told("--method", "arrow")
    assert "trains no adapter" in told("--method", "arrow", "--experts", "2", "--train")
    assert "linear map" in told("--method", "arrow", "--experts", "2", "--targets", "w_proj")


def test_the_command_prints_every_part(tmp_path: Path) -> None:
    random_model(Shape(hidden_size=64, layers=1)).save_pretrained(tmp_path)
    asked = [
        "plan",
        "--base",
        str(tmp_path),
        "--method",
        "arrow",
        "--experts",
        "4",
        "--rank",
        "2",
        "--max-length",
        "64",
    ]
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert (
        told
        == memory_of(
            tmp_path,
            registry.parse("arrow"),
            Experts(4, 2, "q_proj/k_proj/v_proj/o_proj"),
            Work(1, 64, 32),
            torch.float32,
        ).record()
    )
    assert f"{told['cache'] / 1e9:.3f}" in CliRunner().invoke(app, asked).stdout
