"""Cosines from factors are those of dense matrices in fp64, padded ranks and absent layers included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import raw_factors
from tiny import TASKS, tiny_zoo
from torch import Tensor
from typer.testing import CliRunner

from lorafuse_bench.analysis.similarity import Similarity
from lorafuse_bench.cli import app
from lorafuse_bench.zoo.manifest import Zoo


@pytest.fixture(scope="module", params=["even", "mixed"])
def zoo(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"), mixed=request.param == "mixed")


def cosine(x: Tensor, y: Tensor) -> float:
    return (x.flatten() @ y.flatten() / (x.norm() * y.norm())).item()


def cut(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Two factors A as vectors of one length: the shorter one lacks rows, which count as zeros."""
    rank = max(len(a), len(b))
    return tuple(torch.cat([x, x.new_zeros(rank - len(x), x.shape[1])]) for x in (a, b))  # type: ignore[return-value]


def test_cosines_are_those_of_dense_updates(zoo: Zoo) -> None:
    result = Similarity(zoo=str(zoo.root), device="cpu").run(print)
    experts = [raw_factors(zoo.root / entry.path) for entry in zoo.manifest.experts]
    assert result.experts == list(TASKS[:3]) and result.dtype == "float64"
    sums: dict[str, dict[tuple[int, int], list[float]]] = {"A": {}, "B": {}, "update": {}}
    for module in result.A.by_layer:
        for i, (one, s) in enumerate(experts):
            for j, (other, t) in enumerate(experts):
                if module not in one or module not in other:
                    assert result.A.by_layer[module][i][j] is None
                    continue
                (a, b), (c, d) = one[module], other[module]
                wanted = {
                    "A": cosine(*cut(a, c)),
                    "B": cosine(*cut(b.T, d.T)),
                    "update": cosine(s[module] * b @ a, t[module] * d @ c),
                }
                for kind, value in wanted.items():
                    found = getattr(result, kind).by_layer[module][i][j]
                    assert found == pytest.approx(value, abs=1e-7)
                    sums[kind].setdefault((i, j), []).append(value)
    for kind, values in sums.items():
        found = getattr(result, kind)
        for (i, j), parts in values.items():
            assert found.mean[i][j] == pytest.approx(sum(parts) / len(parts), abs=1e-7)
        beside = [(found.mean[0][1] + found.mean[0][2]) / 2]
        assert found.score[TASKS[0]] == pytest.approx(beside[0])


def test_equal_experts_are_alike_and_gauges_change_the_factors_alone() -> None:
    from lorafuse_bench.analysis.similarity import cosines
    from lorafuse_bench.experts import ModuleStack

    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 5, generator=generator), torch.randn(4, 2, generator=generator)
    turned = torch.tensor([[0.0, 2.0], [-1.0, 1.0]])
    stack = ModuleStack(
        torch.stack([a, a, turned @ a]), torch.stack([b, -b, b @ turned.inverse()]), torch.ones(3), (2, 2, 2)
    )
    found = cosines(stack)
    torch.testing.assert_close(found["update"][0].float(), torch.tensor([1.0, -1.0, 1.0]))
    assert abs(found["A"][0, 2]) < 0.99 and found["A"][0, 1] == pytest.approx(1)


def test_accuracy_is_drawn_against_similarity(zoo: Zoo, tmp_path: Path) -> None:
    shares = dict.fromkeys(TASKS[:3], 0.5)
    known = {"spectr": {"top_1": dict.fromkeys(TASKS[:3], 0.1), "top_k": shares}}
    known["moa"] = {"top_1": shares, "top_k": None}  # type: ignore[dict-item]
    (tmp_path / "known.json").write_text(json.dumps({"methods": known}))
    (tmp_path / "other.json").write_text("{}")
    given = ["--zoo", str(zoo.root), "--out", str(tmp_path), "--accuracy"]
    done = call(*given, str(tmp_path / "known.json"))
    assert done.exit_code == 0, done.output
    accuracy = json.loads((tmp_path / "similarity.json").read_text())["accuracy"]
    assert accuracy == {"spectr": shares, "moa": shares}
    refused = call(*given, str(tmp_path / "other.json"))
    assert refused.exit_code == 2 and "does not hold the routing accuracy of these experts" in refused.stderr


def call(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["analyze", "similarity", *arguments])
