"""`lorafuse bench adapters`: operations by hand, shared weights, the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from lorafuse_bench.bench.adapters import TASKS, adapted, compare, reading, twin
from lorafuse_bench.bench.models import Shape, random_model
from lorafuse_bench.cli import app
from lorafuse_bench.fusion.adapters.lora import Lora
from lorafuse_bench.fusion.adapters.moore import Moore
from lorafuse_bench.layers import FusedModule

SHAPE = Shape(hidden_size=128, layers=1, vocabulary=64)


def test_operations_are_those_of_the_formulas() -> None:
    """The tokens cancel: lora's factors, and MoORE's U, V, Γ and Q in place of W; P t_k is cached."""
    rows, tokens = 3, 5
    base = random_model(SHAPE)
    linears = [m for m in base.model.layers.modules() if isinstance(m, nn.Linear)]
    methods = {"lora": Lora(rank=4), "moore": Moore(d_t=8, d_s=2, reflections=2)}
    models = {"base": base} | {name: adapted(base, method, rows) for name, method in methods.items()}
    ids = torch.zeros(rows, tokens, dtype=torch.long)
    found = compare({name: reading(model, ids) for name, model in models.items()}, rounds=1)
    counted = base.get_input_embeddings().weight.numel() + sum(m.weight.numel() for m in linears)
    added = {
        "lora": sum(4 * (m.in_features + m.out_features) for m in linears),
        "moore": sum(_moore(m.out_features, m.in_features) - m.weight.numel() for m in linears),
    }
    for name, weights in added.items():
        assert found[name]["operations_ratio"] == pytest.approx(1 + weights / counted)


def _moore(out: int, into: int, d_s: int = 2) -> int:
    experts = min(out, into)
    return experts * (out + into) + d_s * (into + experts)


def test_a_twin_shares_the_weights_and_no_module() -> None:
    base = random_model(SHAPE)
    other = adapted(base, Lora(), 2)
    assert not any(isinstance(module, FusedModule) for module in base.modules())
    mine = {id(p) for p in base.parameters()}
    assert mine == {id(p) for p in twin(base).parameters()} and mine < {id(p) for p in other.parameters()}
    with torch.no_grad():
        ids = torch.arange(6).view(2, 3)
        torch.testing.assert_close(other(input_ids=ids).logits, base(input_ids=ids).logits)


def test_rows_of_all_tasks_are_mixed() -> None:
    model = adapted(random_model(SHAPE), Moore(d_t=8, d_s=2, reflections=2), TASKS + 1)
    update = next(m.update for m in model.modules() if isinstance(m, FusedModule))
    assert update.place.selection.index[:, 0].tolist() == [*range(TASKS), 0]
    assert update.folded and update.by_task is not None


def test_the_command_times_every_adapter(tmp_path: Path) -> None:
    out = tmp_path / "adapters.json"
    few = ["--hidden-size", "128", "--batch", "2", "--tokens", "4", "--rounds", "1", "--out", str(out)]
    done = CliRunner().invoke(app, ["bench", "adapters", *few])
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    names = "base full_finetune hydralora lora loramoe mixlora moore mosld mtl_lora omoe"
    assert set(result["alternatives"]) == set(names.split())
    (line,) = result["targets"]
    assert line["value"] == result["alternatives"]["moore"]["over_operations"] and line["at_most"] == 1.2
