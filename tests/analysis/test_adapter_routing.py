"""Routing weights of trained adapters: what is read, whose rows, padding, the two statistics, the commands."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import add_adapter, tiny_zoo
from torch import Tensor
from typer.testing import CliRunner

from lorafuse_bench.analysis import of_zoo
from lorafuse_bench.analysis import registry as analyses
from lorafuse_bench.analysis.adapter_routing import routed_modules, routing_weights
from lorafuse_bench.analysis.correlation import correlation
from lorafuse_bench.analysis.prompts import with_experts
from lorafuse_bench.analysis.routing_weights import spread
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.zoo.manifest import Zoo

MOORE, LORAMOE = "moore:d_t=5+d_s=3+reflections=4", "loramoe:rank=2+experts=4"
PROMPTS = {"sst2": [[5, 6, 7], [9, 8]], "mnli": [[5, 6, 7]], "squad": [[4]]}  # squad was not trained on
MODULE = "model.layers.1.self_attn.q_proj"


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    zoo = tiny_zoo(tmp_path_factory.mktemp("zoo"), experts=0)
    for spec in (MOORE, LORAMOE, "lora:rank=3", "mixlora:rank=3+experts=4", "mtl_lora:rank=2"):
        zoo = add_adapter(zoo, spec)
    return zoo


def fused(zoo: Zoo, spec: str) -> FusedModel:
    model = with_experts(zoo, names=())
    model.use(registry.parse(spec))
    return model


def test_weights_are_those_of_the_formula(zoo: Zoo) -> None:
    """MoORE at one map: the mean over a prompt's tokens of P t_k + Q Γ x, with x as the base's map gets it."""
    model = fused(zoo, MOORE)
    held: list[Tensor] = []
    place = model.model.get_submodule(MODULE)
    handle = place.register_forward_pre_hook(lambda _, args: held.append(args[0]))
    found = routing_weights(model, PROMPTS, MODULE)
    handle.remove()
    update = place.update
    assert list(found) == list(PROMPTS)
    for x, (task, rows), t in zip(
        held, PROMPTS.items(), (update.T[0], update.T[1], update.T.mean(0)), strict=True
    ):
        for row, tokens in enumerate(rows):
            own = x[row, : len(tokens)]
            expected = (update.P @ t + own @ update.Gamma.T @ update.Q.T).mean(0)
            torch.testing.assert_close(found[task][row], expected, rtol=1e-5, atol=1e-6)
    assert model.selection.index is None


@pytest.mark.parametrize(
    ("spec", "experts"),
    [(MOORE, None), (LORAMOE, 4), ("mixlora:rank=3+experts=4", 4), ("mtl_lora:rank=2", 3)],
)
def test_batches_and_padding_change_nothing(zoo: Zoo, spec: str, experts: int | None) -> None:
    model = fused(zoo, spec)
    module = routed_modules(model)[-1]
    together, apart = (routing_weights(model, PROMPTS, module, batch) for batch in (8, 1))
    for task, weights in together.items():
        torch.testing.assert_close(apart[task], weights, rtol=1e-4, atol=1e-4)
        if experts:  # the others' weights are of sum 1
            assert weights.shape == (len(PROMPTS[task]), experts)
            torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))


def test_what_has_no_router_is_refused(zoo: Zoo) -> None:
    with pytest.raises(LorafuseError, match="method 'lora:rank=3' weighs no experts"):
        routing_weights(fused(zoo, "lora:rank=3"), PROMPTS, MODULE)
    with pytest.raises(
        LorafuseError, match="unknown module with experts .*Did you mean 'model.layers.1.self_attn"
    ):
        routing_weights(fused(zoo, MOORE), PROMPTS, MODULE + "s")


def test_both_statistics_by_hand() -> None:
    weights = {
        "a": torch.tensor([[0.0, 1.0], [2.0, 1.0]]),  # mean 1 1
        "b": torch.tensor([[1.0, 4.0]]),  # 3 away
        "c": torch.tensor([[5.0, 1.0]]),  # 4 from a, 5 from b
    }
    assert spread(weights)["a"].model_dump() == {"mean": [1.0, 1.0], "sd": [1.0, 0.0]}
    expected = [[0, 0.6, 0.8], [0.6, 0, 1], [0.8, 1, 0]]
    assert all(
        math.isclose(x, y, abs_tol=1e-12)
        for row, wanted in zip(correlation(weights), expected, strict=True)
        for x, y in zip(row, wanted, strict=True)
    )
    assert correlation({"a": weights["a"], "b": weights["a"]}) == [[0, 0], [0, 0]]


def test_the_commands_write_numbers_and_pictures(zoo: Zoo, handmade_data: Path, tmp_path: Path) -> None:
    common = [
        "--zoo",
        str(zoo.root),
        "--data",
        str(handmade_data),
        "--suites",
        "sst2/mnli,text_story",
        "--out",
        str(tmp_path),
    ]
    routed = ["--method", MOORE, "--samples", "2", "--batch-size", "1"]
    for name, arguments in (
        ("routing-weights", routed),
        ("correlation", [*routed, "--module", MODULE]),
        ("latency", ["--rounds", "2", "--batch-size", "3", "--cutoff", "20"]),
    ):
        done = CliRunner().invoke(app, ["analyze", name, *common, *arguments])
        assert done.exit_code == 0, done.output
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    weights, matrix, latency = (
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("routing-weights", "correlation", "latency")
    )
    assert weights["module"] == "model.layers.0.self_attn.q_proj" and set(weights["tasks"]) == {
        "sst2",
        "mnli",
        "text_story",
    }
    assert (matrix["module"], matrix["tasks"]) == (MODULE, ["mnli", "sst2", "text_story"])
    distances = torch.tensor(matrix["correlation"])
    assert torch.equal(distances, distances.T) and distances.diagonal().tolist() == [0, 0, 0]
    assert distances.max() == 1
    check_latency(latency)
    assert latency["tokens"] <= 20


@pytest.mark.parametrize("name", ["routing-weights", "correlation", "latency"])
def test_device_and_type_are_the_users(zoo: Zoo, handmade_data: Path, tmp_path: Path, name: str) -> None:
    given = ["--zoo", str(zoo.root), "--data", str(handmade_data), "--suites", "sst2", "--out", str(tmp_path)]
    small = ["--rounds", "1"] if name == "latency" else ["--method", MOORE, "--samples", "2"]
    half = ["--device", "cpu", "--dtype", "bfloat16"]
    done = CliRunner().invoke(app, ["analyze", name, *given, *small, *half])
    assert done.exit_code == 0, done.output
    written = json.loads((tmp_path / f"{name}.json").read_text())
    assert (written["device"], written["dtype"]) == ("cpu", "bfloat16")
    for wrong, message in (
        (["--device", "nowhere"], "device 'nowhere' cannot be used"),
        (["--suites", "sst3"], "unknown suite 'sst3'"),
        (["--out", "/proc/nowhere"], "/proc"),
    ):
        refused = CliRunner().invoke(app, ["analyze", name, *given, *small, *wrong])
        assert refused.exit_code == 2 and message in refused.stderr, refused.output


@pytest.mark.parametrize("name", ["routing-weights", "correlation", "latency"])
def test_a_batch_is_read_in_portions(
    zoo: Zoo, handmade_data: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """To the same numbers, save the seconds; one that does not divide is refused before the base is loaded."""
    rows: set[int] = set()

    def watched(*args: Any) -> FusedModel:
        model = with_experts(*args)
        model.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: rows.add(len(args[0])))
        return model

    monkeypatch.setattr(of_zoo, "with_experts", watched)
    given: dict[str, Any] = {"zoo": str(zoo.root), "data": str(handmade_data), "suites": "sst2/mnli"}
    own = {"rounds": 1, "methods": LORAMOE} if name == "latency" else {"samples": 2, "method": LORAMOE}
    given |= own | {"batch_size": 2}
    results = []
    for accumulation in (1, 2):
        results.append(analyses.create(name, given | {"accumulation": accumulation}).run(print).model_dump())
        assert rows == {2 // accumulation}
        rows.clear()
    whole, portions = results
    if name == "latency":
        assert (whole["portions"], portions["portions"], portions["tokens"]) == (1, 2, whole["tokens"])
        whole, portions = ({m: r["operations_ratio"] for m, r in each["methods"].items()} for each in results)
    assert portions == approximately(whole)
    with pytest.raises(LorafuseError, match="2 rows does not divide into 3 portions"):
        analyses.create(name, given | {"accumulation": 3}).run(print)
    assert not rows


def approximately(found: Any) -> Any:
    """Numbers within, at any depth, to rounding."""
    if isinstance(found, dict):
        return {key: approximately(value) for key, value in found.items()}
    if isinstance(found, list):
        return [approximately(value) for value in found]
    return pytest.approx(found, rel=1e-4, abs=1e-5) if isinstance(found, float) else found


def check_latency(result: dict[str, Any]) -> None:
    methods = result["methods"]
    assert result["rows"] == 3
    assert set(methods) == {
        "base",
        MOORE,
        LORAMOE,
        "lora:rank=3",
        "mixlora:rank=3+experts=4",
        "mtl_lora:rank=2",
    }
    assert methods["base"]["ratio"] == methods["base"]["operations_ratio"] == 1
    for label, row in methods.items():
        assert row["seconds"] > 0 and row["over_operations"] == pytest.approx(
            row["ratio"] / row["operations_ratio"]
        )
        assert label == "base" or row["operations_ratio"] > 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latency"], "zoo 'mini' has no trained adapter. Train one with"),
        (["routing-weights"], "lorafuse train adapter --method moore --suite SUITE --base mini --out ZOO`"),
    ],
)
def test_a_zoo_without_adapters_is_refused(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, ["analyze", *arguments, "--zoo", "mini", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and message in done.stderr, done.output
    assert not (tmp_path / "out").exists()
