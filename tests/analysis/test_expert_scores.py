"""Routing accuracy, score ratios and token shares against scores made in fp64 of dense updates, token by token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from routed import DenseExpert, Update, arrow, routed, spectr
from tiny import TASKS, add_router, tiny_model, tiny_zoo
from torch import Tensor
from typer.testing import CliRunner

from lorafuse_bench.analysis.expert_scores import mean_over_tokens, scores_of
from lorafuse_bench.analysis.prompts import with_experts
from lorafuse_bench.analysis.routing_accuracy import accuracy
from lorafuse_bench.analysis.score_ratio import ratio, truncated
from lorafuse_bench.analysis.token_routing import shares
from lorafuse_bench.cli import app
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.zoo.manifest import Zoo

PROMPTS = {"sst2": [[5, 6, 7, 9], [9, 8]], "mnli": [[5, 6, 7]], "squad": [[4, 1, 2, 3, 8], [3, 3], [2]]}
SCORES = {
    "arrow": lambda e, x: (x @ e.vt[0]).abs(),
    "spectr": lambda e, x: (x @ e.delta.T).norm(dim=1),
    "spectr:score=subspace": lambda e, x: (x @ e.vt.T).norm(dim=1),
}
UPDATES: Mapping[str, Update] = {
    "arrow:k=2": arrow(2),
    "spectr:k=2": spectr(2),
    "spectr:k=2+score=subspace": spectr(2, subspace=True),
}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return add_router(tiny_zoo(tmp_path_factory.mktemp("zoo")))


@pytest.fixture
def fused(zoo: Zoo) -> FusedModel:
    return with_experts(zoo, "cpu", "float32")


def dense_scores(zoo: Zoo, spec: str, row: list[int]) -> Tensor:
    """`(layers, tokens, N)` in fp64, by a model whose maps hold dense experts."""
    name = spec.replace(":k=2+", ":").removesuffix(":k=2")
    model = routed(
        tiny_model(seed=zoo.manifest.seed).double(),
        [zoo.root / entry.path for entry in zoo.manifest.experts],
        UPDATES[spec],
    )
    held: list[Tensor] = []
    for module in model.modules():
        if experts := getattr(module, "experts", None):

            def note(_: Any, args: tuple[Tensor], experts: list[DenseExpert] = experts) -> None:
                held.append(torch.stack([SCORES[name](e, args[0][0]) for e in experts], -1))

            module.register_forward_pre_hook(note)
    with torch.no_grad():
        model(input_ids=torch.tensor([row]))
    return torch.stack(held)


@pytest.mark.parametrize("spec", UPDATES)
def test_scores_and_accuracy_are_those_of_dense_experts(zoo: Zoo, fused: FusedModel, spec: str) -> None:
    method = registry.parse(spec)
    dense = {
        task: torch.cat([dense_scores(zoo, spec, row) for row in rows], 1) for task, rows in PROMPTS.items()
    }
    fused.use(method)
    found = scores_of(fused, "sst2", PROMPTS["sst2"][0])
    torch.testing.assert_close(
        found.double(), dense_scores(zoo, spec, PROMPTS["sst2"][0]), rtol=1e-4, atol=1e-5
    )
    measured = accuracy(fused, method, PROMPTS, 2)
    for own, task in enumerate(TASKS[:3]):
        scores = dense[task]
        larger = (scores > scores[..., own : own + 1]).sum(-1)
        assert measured.top_1[task] == pytest.approx((larger < 1).double().mean().item(), abs=1e-9)
        assert measured.top_k and measured.top_k[task] == pytest.approx((larger < 2).double().mean().item())
        first = torch.stack([(scores.argmax(-1) == i).double().mean() for i in range(3)])
        assert measured.confusion[own] == pytest.approx(first.tolist())
        fused.use(method)
        part = mean_over_tokens(fused, {task: PROMPTS[task]}, ratio, batch=2)[task].mean().item()
        expected = (scores[..., own] / scores.max(-1).values).mean().item()
        assert part == pytest.approx(expected, rel=1e-4)
    layers = torch.stack(
        [(dense[task].argmax(-1) == own).double().mean(1) for own, task in enumerate(TASKS[:3])]
    )
    assert list(measured.by_layer.values()) == pytest.approx(layers.mean(0).tolist())


def test_moa_is_counted_block_by_block(fused: FusedModel) -> None:
    method = registry.parse("moa:decision=per_block")
    measured = accuracy(fused, method, PROMPTS, 2)
    total = torch.zeros(3, 3)
    for task, rows in PROMPTS.items():
        fused.use(method)
        for row in rows:
            from lorafuse_bench.analysis.prompts import padded

            index = fused.select(padded(fused, [row], [task]))
            assert index is not None
            for expert in index[0].tolist():
                total[list(PROMPTS).index(task), expert] += 1 / (len(rows) * index.shape[1])
    torch.testing.assert_close(torch.tensor(measured.confusion), total)
    assert measured.top_k is None and len(measured.by_layer) == fused.base.blocks
    assert measured.mean_top_1 == pytest.approx(total.diagonal().mean().item())


def test_the_oracle_is_always_right(fused: FusedModel) -> None:
    assert accuracy(fused, registry.parse("oracle"), PROMPTS, 1).mean_top_1 == 1


@pytest.mark.parametrize("rank", [1, 3])
def test_truncated_experts_are_the_best_of_their_rank(zoo: Zoo, rank: int) -> None:
    whole = ExpertPool.from_zoo(zoo)
    cut = truncated(whole, rank)
    for module, stack in cut.modules.items():
        for i in range(len(whole)):
            dense = (whole.modules[module].B[i] @ whole.modules[module].A[i]).double()
            u, s, vt = torch.linalg.svd(dense)
            expected = u[:, :rank] * s[:rank] @ vt[:rank]
            torch.testing.assert_close((stack.B[i] @ stack.A[i]).double(), expected, rtol=1e-4, atol=1e-5)
    same = truncated(whole, 99).modules[module]
    torch.testing.assert_close(same.B @ same.A, whole.modules[module].B @ whole.modules[module].A)


def test_ratios_and_shares_by_hand() -> None:
    scores = torch.tensor([[1.0, 4.0], [3.0, 2.0], [0.0, 0.0], [float("-inf"), 2.0]])
    assert ratio(scores, 0)[:, 0].tolist() == [0.25, 1.0, 1.0, 0.0]
    torch.testing.assert_close(shares(scores), torch.tensor([[0.2, 0.8], [0.6, 0.4], [0.5, 0.5], [0.0, 1.0]]))


def test_experts_that_lack_a_layer_come_last_there(tmp_path: Path) -> None:
    """Experts of unequal targets: an own expert that does not adapt a layer is never right in it."""
    zoo = tiny_zoo(tmp_path, mixed=True)
    fused = with_experts(zoo, "cpu")
    measured = accuracy(fused, registry.parse("spectr:k=1"), {"mnli": PROMPTS["mnli"]}, 3)
    lacking = [module for module in measured.by_layer if module not in fused.pool.experts[1].factors]
    assert lacking and all(measured.by_layer[module] == 0 for module in lacking)
    assert measured.top_k and measured.top_k["mnli"] == pytest.approx(
        1 - len(lacking) / len(measured.by_layer)
    )


def test_the_commands_write_numbers_and_pictures(zoo: Zoo, handmade_data: Path, tmp_path: Path) -> None:
    common = [
        "--zoo",
        str(zoo.root),
        "--data",
        str(handmade_data),
        "--out",
        str(tmp_path),
        "--dtype",
        "bfloat16",
    ]
    for name, arguments in (
        ("routing-accuracy", ["--samples", "2", "--k", "2"]),
        ("score-ratio", ["--samples", "1", "--ranks", "1,2,16"]),
        ("token-routing", ["--task", "mnli", "--document", "1"]),
    ):
        done = call(name, *common, *arguments)
        assert done.exit_code == 0, done.output
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        written = json.loads((tmp_path / f"{name}.json").read_text())
        assert (written["dtype"], written["zoo"]) == ("bfloat16", "tiny")
        if name == "routing-accuracy":
            assert set(written["methods"]) == {
                "arrow",
                "spectr",
                "spectr:score=subspace",
                "moa:decision=per_block",
            }
            assert (written["chance_top_1"], written["chance_top_k"]) == (1 / 3, 2 / 3)
        if name == "score-ratio":
            assert list(written["methods"]["arrow"]) == ["1", "2"] and written["rank"] == 4
        if name == "token-routing":
            assert all(abs(sum(row) - 1) < 1e-5 for row in written["shares"])
            assert len(written["shares"]) == len(written["tokens"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["routing-accuracy", "--methods", "svd"], "method 'svd' scores no experts token by token"),
        (["routing-accuracy", "--suites", "boolq"], "no expert for task 'boolq'"),
        (["routing-accuracy", "--methods", "arow"], "Did you mean 'arrow'?"),
        (["score-ratio", "--ranks", "8"], "have rank 4. Ask for ranks up to that"),
        (["token-routing", "--task", "boolq"], "no expert for task 'boolq'"),
        (["token-routing", "--document", "900000"], "prompts. Ask for document 0 to"),
    ],
)
def test_what_cannot_be_asked_is_one_line(
    zoo: Zoo, handmade_data: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    data = ["--data", str(handmade_data), "--out", str(tmp_path)]
    done = call(*arguments, "--zoo", str(zoo.root), *data)
    assert done.exit_code == 2 and message in done.stderr.splitlines()[-1], done.output
    assert not any(tmp_path.iterdir())


def test_experts_are_needed(tmp_path: Path, handmade_data: Path) -> None:
    empty = tiny_zoo(tmp_path / "zoo", experts=0)
    for name in ("routing-accuracy", "score-ratio", "token-routing", "similarity"):
        data = [] if name == "similarity" else ["--data", str(handmade_data)]
        done = call(name, "--zoo", str(empty.root), *data, "--out", str(tmp_path / "out"))
        assert done.exit_code == 2 and f"analysis '{name}' needs experts" in done.stderr, done.output


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["analyze", *arguments])
