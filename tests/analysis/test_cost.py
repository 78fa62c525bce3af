"""What the formulas say is what torch counts; the formulas themselves by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lorafuse_bench.analysis.cost import FORMULAS, Cost, CostResult, Sizes
from lorafuse_bench.cli import app

HAND = Sizes(n=4, r=2, maps=((6, 3), (5, 5)), head=7)
"""D = 19, dense 43."""


@pytest.mark.parametrize(
    ("method", "storage", "beside", "flops"),
    [
        ("svd", 38, 0, 76),
        ("concat", 152, 0, 304),
        ("ties", 43, 0, 86),
        ("oracle", 152, 0, 76),
        ("arrow", 152, 2 * 4 * 2, 304),
        ("spectr", 152, 2 * 4 * 4, 304 + 2 * 2 * 4 * 4),
        ("ensemble", 152, 0, 3 * 2 * (43 + 7) + 4 * 76),
    ],
)
def test_formulas_by_hand(method: str, storage: int, beside: int, flops: int) -> None:
    numbers = FORMULAS[method](HAND)
    assert (numbers.storage, numbers.memory, numbers.flops_per_token) == (storage, storage + beside, flops)


@pytest.fixture(scope="module")
def counted() -> CostResult:
    methods = ",".join((*FORMULAS, "moa"))
    return Cost(methods=methods, experts=5, rank=2, hidden_size=64, layers=1, device="cpu").run(print)


def test_what_is_counted_is_what_is_computed(counted: CostResult) -> None:
    for name in FORMULAS:
        cost = counted.methods[name]
        assert cost.measured == cost.computed, name
    assert counted.methods["moa"].measured is None  # has no router here


def test_the_base_is_its_maps_and_its_output_layer(counted: CostResult) -> None:
    """Width 64, two heads of 32 of which one keeps keys and values, MLP of 256, 1024 words."""
    maps = 64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 256
    assert counted.base.memory == maps + 64 * 1024


def test_the_command_writes_numbers_and_a_picture(tmp_path: Path) -> None:
    given = ["--methods", "svd,arrow", "--experts", "3", "--hidden-size", "64", "--layers", "1"]
    done = CliRunner().invoke(app, ["analyze", "cost", *given, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert set(json.loads((tmp_path / "cost.json").read_text())["methods"]) == {"svd", "arrow"}
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")
