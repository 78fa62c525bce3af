"""The benchmarks run at tiny sizes and report what docs/performance.md lists; no time is asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lorafuse_bench import cli
from lorafuse_bench.bench import forward, merge, timing
from lorafuse_bench.bench.models import Shape
from lorafuse_bench.bench.plot import plot_sweep

TINY = Shape(hidden_size=128, layers=1, vocabulary=64, rank=2)
TIMED = {"seconds", "ratio", "ratio_low", "ratio_high"}


@pytest.fixture(scope="module")
def merged() -> dict[str, Any]:
    return merge.run([(24, 16)], experts=3, rank=2, rounds=2, memory_shape=(48, 32), memory_experts=4)


@pytest.fixture(scope="module")
def forwarded() -> dict[str, Any]:
    return forward.run(TINY, [3], 3, [2, 3], batch=3, tokens=5, rounds=2)


def test_merge_reports_every_field(merged: dict[str, Any]) -> None:
    assert {"schema", "machine", "experts", "rank", "rounds", "svd", "knots", "memory", "targets"} == set(
        merged
    )
    (svd,), (knots,) = merged["svd"], merged["knots"]
    assert svd["shape"] == knots["shape"] == "24x16"
    assert set(svd["alternatives"]) == {"ours", "peft", "peft_thin"}
    assert set(knots["alternatives"]) == {"ours", "dense"}
    assert all(set(x) == TIMED for x in (svd["alternatives"] | knots["alternatives"]).values())
    assert [row["method"] for row in merged["memory"]] == ["svd", "knots"]
    json.dumps(merged, allow_nan=False)


def test_what_is_compared_is_the_same_merge(merged: dict[str, Any]) -> None:
    """A ratio of times means something only between equal results."""
    assert merged["svd"][0]["relative_difference"] < 1e-5
    assert merged["knots"][0]["relative_difference"] < 1e-5


def test_forward_reports_every_field(forwarded: dict[str, Any]) -> None:
    fields = {
        "schema",
        "machine",
        "shape",
        "batch",
        "tokens",
        "rounds",
        "routing",
        "rows",
        "sweep",
        "targets",
    }
    assert fields == set(forwarded)
    (gated,) = forwarded["routing"]
    assert set(gated["alternatives"]) == {"base", "arrow", "spectr", "peft_arrow"}
    assert set(forwarded["rows"]["decode"]) == {"base", "rows", "peft_mixed"}
    assert all(set(x) == TIMED for x in gated["alternatives"].values())
    assert gated["alternatives"]["base"]["ratio"] == 1
    assert [p["experts"] for p in forwarded["sweep"]["points"]] == [2, 3]
    assert set(forwarded["sweep"]["slopes"]) == {"arrow", "spectr", "flops"}
    json.dumps(forwarded, allow_nan=False)


def test_added_operations_by_hand(forwarded: dict[str, Any]) -> None:
    """One layer, hidden 128, MLP 512, 2 heads of 64, 1 for keys and values, vocabulary 64, rank 2, N = 3."""
    linears = [(128, 128), (64, 128), (64, 128), (128, 128), (512, 128), (512, 128), (128, 512), (64, 128)]
    base = sum(2 * out * into for out, into in linears) + 4 * 128 * 5
    added = sum(2 * 3 * 2 * (out + into + 2) for out, into in linears[:-1])  # A, B, and r x r for each score
    assert forwarded["sweep"]["points"][1]["flops_ratio"] == pytest.approx(1 + added / base)


def test_plot(forwarded: dict[str, Any], tmp_path: Path) -> None:
    plot_sweep(forwarded, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").read_bytes().startswith(b"\x89PNG")


def test_ratios_are_formed_within_rounds() -> None:
    """A machine twice as slow in one round leaves the ratio alone."""
    timings = timing.Timings({"a": [2.0, 4.0, 2.2], "b": [1.0, 2.0, 1.0]})
    assert timings.ratio("a", "b") == 2.0
    assert timings.median("a") == 2.2
    assert timings.quartiles("a", "b") == pytest.approx((2.0, 2.1))


def test_alternatives_take_turns() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in ("a", "b")}
    timings = timing.paired(calls, rounds=2, repeats=2, warmup=1)
    assert order == ["a", "b", "a", "a", "b", "b", "b", "b", "a", "a"]
    assert all(len(seconds) == 2 for seconds in timings.seconds.values())


def test_targets_say_whether_they_are_met() -> None:
    assert timing.target("x", 2.0, at_least=2)["met"]
    assert not timing.target("x", 1.9, at_least=2)["met"]
    assert not timing.target("x", 1.6, at_most=1.5)["met"]


def test_command_writes_the_numbers(tmp_path: Path) -> None:
    out = tmp_path / "merge.json"
    arguments = ["bench", "merge", "--shapes", "12x10", "--experts", "2", "--rank", "2", "--rounds", "1"]
    result = CliRunner().invoke(cli.app, [*arguments, "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "threads" in result.output
    assert json.loads(out.read_text())["schema"] == "lorafuse.bench.merge/1"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["merge", "--shapes", "12"], "'12' is not OUTxIN"),
        (["forward", "--experts", "8,x"], "'8,x' is not a list of numbers"),
        (["forward", "--architecture", "llma"], "Did you mean 'llama'?"),
    ],
)
def test_mistakes_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli.app, ["bench", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
