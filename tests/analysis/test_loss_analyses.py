"""Selection and sparsity of a loss matrix by hand, and of one that lorafuse fit has not made."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TASKS, tiny_zoo
from typer.testing import CliRunner

from lorafuse_bench.analysis import selection, sparsity
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.fitted import LossMatrix
from lorafuse_bench.zoo.manifest import Zoo

NAMES = TASKS[:3]
LOSSES = torch.tensor([[1.0, 4.0, 3.0], [3.0, 1.0, 2.0], [1.5, 1.4, 2.5]])
ERRORS = torch.full((3, 3), 0.3)
MATRIX = LossMatrix(NAMES, NAMES, LOSSES * 10, torch.full((3,), 10.0), ERRORS)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


def test_greedy_by_hand(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Means 8/3, 2 and 1.8 alone; with the third, the second adds 1.5+1+2 and the first 1+1.4+2.5."""
    monkeypatch.setattr(selection, "read_losses", lambda *_: MATRIX)
    result = selection.Selection(zoo=str(zoo.root), device="cpu").run(print)
    assert [step.expert for step in result.order] == [NAMES[2], NAMES[1], NAMES[0]]
    assert [step.loss for step in result.order] == pytest.approx([1.8, 1.5, 4 / 3])
    assert result.standard_error == pytest.approx((3 * 0.09) ** 0.5 / 3)
    assert result.enough == 2  # 1.5 is within 0.173 of 4/3
    assert (result.not_best, result.not_best_share) == ([NAMES[2]], pytest.approx(1 / 3))
    assert selection.Selection(zoo=str(zoo.root)).figure(result).axes


def test_losses_of_one_dev_row_have_no_error_and_are_refused(
    zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = MATRIX.standard_errors.clone()
    errors[:, 1] = float("nan")
    monkeypatch.setattr(selection, "read_losses", lambda *_: replace(MATRIX, standard_errors=errors))
    with pytest.raises(LorafuseError, match=r"are of one dev row, .* with --dev 2 or more"):
        selection.Selection(zoo=str(zoo.root), device="cpu").run(print)


def test_every_greedy_step_is_the_best_one() -> None:
    losses = torch.rand(6, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order, curve = selection.greedy(losses)
    assert sorted(order) == list(range(6)) and curve == sorted(curve, reverse=True)
    for k in range(6):
        options = [
            losses[[*order[:k], i]].min(0).values.mean().item() for i in range(6) if i not in order[:k]
        ]
        assert curve[k] == pytest.approx(min(options))
    best_pair = min(losses[list(pair)].min(0).values.mean().item() for pair in combinations(range(6), 2))
    assert curve[-1] <= best_pair <= curve[1] + 1e-12


def test_the_programs_weights_by_hand(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """λ (1, 3) + (1 − λ) (5, 1) is even at λ = 2/3: both tasks lose 7/3; a third expert that loses 9 is left out."""
    losses = torch.tensor([[1.0, 3.0], [5.0, 1.0], [9.0, 9.0]])
    matrix = LossMatrix(NAMES, NAMES[:2], losses, torch.ones(2), torch.zeros(3, 2))
    monkeypatch.setattr(sparsity, "read_losses", lambda *_: matrix)
    result = sparsity.Sparsity(zoo=str(zoo.root), device="cpu").run(print)
    assert list(result.weights.values()) == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-6)
    assert result.above_zero == pytest.approx(2 / 3) and result.worst == pytest.approx(7 / 3, abs=1e-5)
    assert sparsity.Sparsity(zoo=str(zoo.root)).figure(result).axes


@pytest.mark.parametrize("name", ["selection", "sparsity"])
def test_a_matrix_that_was_not_made_is_one_line(zoo: Zoo, tmp_path: Path, name: str) -> None:
    done: Any = CliRunner().invoke(
        app, ["analyze", name, "--zoo", str(zoo.root), "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 2 and "lorafuse fit losses" in done.stderr, done.output
    assert not (tmp_path / "out").exists()
