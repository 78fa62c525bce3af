"""Losses of methods, of pairs of experts and of routers: by hand, against each expert alone, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TASKS, tiny_zoo
from toy_cells import write, write_losses
from typer.testing import CliRunner

from lorafuse_bench.analysis import registry
from lorafuse_bench.analysis.calibration import Calibration, gap
from lorafuse_bench.analysis.connectivity import Connectivity, between, drawn
from lorafuse_bench.analysis.losses import Losses
from lorafuse_bench.analysis.row_losses import evaluated_rows, nats_and_tokens, per_token
from lorafuse_bench.cli import app
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry as methods
from lorafuse_bench.training.token_scores import score_experts
from lorafuse_bench.zoo.manifest import Zoo

SAMPLES = 3


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return tiny_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="module")
def fused(zoo: Zoo) -> FusedModel:
    return Connectivity(zoo=str(zoo.root), device="cpu").fused()


@pytest.fixture(scope="module")
def alone(fused: FusedModel) -> dict[str, torch.Tensor]:
    """Task to the nats of its rows under each expert `(N, rows)`, and their tokens in a last line."""
    rows = evaluated_rows(fused, TASKS[:3], "mini", SAMPLES)
    found = {}
    for task, own in rows.items():
        scores = score_experts(fused, own, torch.float32)
        found[task] = torch.cat([scores.by_row(), scores.counts[None].double()])
    return found


def test_the_ends_of_a_path_are_the_experts_alone(zoo: Zoo, alone: dict[str, torch.Tensor]) -> None:
    analysis = Connectivity(zoo=str(zoo.root), data="mini", device="cpu", samples=SAMPLES, points=3, pairs=9)
    result = analysis.run(lambda line: None)
    assert result.alphas == [0, 0.5, 1] and len(result.pairs) == 3  # of three experts there are no more
    for pair in result.pairs:
        a, b = TASKS.index(pair.first), TASKS.index(pair.second)
        one, two = alone[pair.first], alone[pair.second]
        both, tokens = torch.cat([one, two], 1), one[-1].sum() + two[-1].sum()
        ends = [both[a].sum() / tokens, both[b].sum() / tokens]
        assert [pair.on_both[0], pair.on_both[-1]] == pytest.approx([float(x) for x in ends], rel=1e-5)
        assert pair.on_first[0] == pytest.approx(float(one[a].sum() / one[-1].sum()), rel=1e-5)
        assert pair.on_second[0] == pytest.approx(float(two[a].sum() / two[-1].sum()), rel=1e-5)
        best = torch.minimum(both[a], both[b]).sum() / tokens
        assert pair.better_per_row == pytest.approx(float(best), rel=1e-5)
        above = pair.on_both[1] - (pair.on_both[0] + pair.on_both[-1]) / 2
        assert pair.barrier == pytest.approx(max(0.0, above))
    assert len(analysis.figure(result).axes) == 3


def test_factors_between_two_experts(fused: FusedModel) -> None:
    adapter = between(fused.pool, (2, 0), 0.25)
    for module, stack in fused.pool.modules.items():
        a, b = adapter.factors[module]
        torch.testing.assert_close(a, 0.75 * stack.A[2] + 0.25 * stack.A[0])
        torch.testing.assert_close(b, 0.75 * stack.B[2] + 0.25 * stack.B[0])


def test_pairs_are_drawn_by_the_seed() -> None:
    assert drawn(6, 4, 0) == drawn(6, 4, 0) != drawn(6, 4, 1)
    assert drawn(3, 9, 0) == [(0, 1), (0, 2), (1, 2)]


def test_a_gap_is_the_difference_of_two_runs_of_the_method(fused: FusedModel) -> None:
    rows = evaluated_rows(fused, TASKS[:2], "mini", SAMPLES)
    variants = {k: methods.parse(f"arrow:k={k}") for k in (1, 3)}
    found = gap(fused, variants, rows)
    by_k: dict[int, list[torch.Tensor]] = {}
    for k, method in variants.items():
        fused.use(method)
        by_k[k] = [nats_and_tokens(fused, own) for own in rows.values()]
        assert found.losses[k] == pytest.approx(sum(map(per_token, by_k[k])) / 2)
    assert found.gap == pytest.approx(found.losses[1] - found.losses[3])
    by_task = [per_token(few) - per_token(many) for few, many in zip(by_k[1], by_k[3], strict=True)]
    assert found.tasks == pytest.approx(dict(zip(rows, by_task, strict=True)))
    squares = 0.0
    for few, many in zip(by_k[1], by_k[3], strict=True):
        tokens, off = few[:, 1], few[:, 0] - many[:, 0]
        rest = (off - off.sum() / tokens.sum() * tokens) / tokens.mean()
        squares += float(rest.var() / len(rest))
    assert found.se_items == pytest.approx(squares**0.5 / 2)


def test_calibration_leaves_out_what_was_not_fitted(zoo: Zoo) -> None:
    said: list[str] = []
    analysis = Calibration(zoo=str(zoo.root), data="mini", suites=TASKS[0], device="cpu", samples=2, k=(1, 2))
    result = analysis.run(said.append)
    assert list(result.methods) == ["arrow:merge=before"] and result.tasks == [TASKS[0]]
    assert len([line for line in said if "left out" in line and "lorafuse fit" in line]) == 2
    assert analysis.figure(result).axes


def test_losses_beside_each_other_by_hand(tmp_path: Path) -> None:
    """Two tasks; the mixture of logits loses .2 and .4 more than that of probabilities, mbc .5 less than private."""
    means = {"base": (3, 3), "oracle": (1, 1), "ensemble": (2, 2), "ensemble:space=logit": (2.2, 2.4)}
    for zoo, less in (("toy", 0.0), ("toy@mbc", 0.5)):
        for label, both in means.items():
            write_losses(tmp_path, label, *(each - less for each in both), zoo={"name": zoo})
    result = Losses(results=tmp_path).run(print)
    assert (result.suite, result.tasks, list(result.methods)) == ("losses", 2, ["toy", "toy@mbc"])
    assert list(result.methods["toy"]) == ["oracle", "ensemble", "ensemble:space=logit", "base"]
    assert result.methods["toy"]["ensemble"].value == pytest.approx(2.0)
    found = {(each.a, each.b): each.loss for each in result.differences}
    by_space = found["ensemble on toy", "ensemble:space=logit on toy"]
    assert by_space.value == pytest.approx(-0.3) and by_space.se_items == pytest.approx(0, abs=1e-9)
    assert by_space.se_tasks == pytest.approx(0.1)  # of -.2 and -.4, sd .1414 / sqrt 2
    assert found["ensemble on toy@mbc", "ensemble on toy"].value == pytest.approx(-0.5)
    assert Losses(results=tmp_path).figure(result).axes


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["connectivity", "--points", "1"], "Use 2 or more"),
        (["connectivity", "--experts", "sst2"], "a pair is two"),
        (["calibration", "--k", "2"], "--k 1,4"),
        (["calibration", "--methods", "concat"], "has no option k"),
        (
            ["calibration", "--methods", "routing_sgd", "--k", "1,2", "--suites", "sst2"],
            "lorafuse fit routing_sgd",
        ),
        (["calibration", "--methods", "arrow", "--k", "1,4", "--suites", "sst2"], "k=4 must be between 1"),
    ],
)
def test_what_fits_nothing_is_one_line(zoo: Zoo, tmp_path: Path, words: list[str], said: str) -> None:
    common = ["--zoo", str(zoo.root), "--data", "mini", "--device", "cpu", "--out", str(tmp_path / "out")]
    done: Any = CliRunner().invoke(app, ["analyze", *words, *common])
    assert done.exit_code == 2 and said in done.stderr, done.output
    assert not (tmp_path / "out").exists()


def test_losses_of_scores_or_of_other_rows_are_refused(tmp_path: Path) -> None:
    for label in ("base", "oracle"):
        write(tmp_path / "scores", label, {"a": [1.0, 0.0]})
        write_losses(tmp_path / "rows", label, 1.0)
        write_losses(tmp_path / "rows", label, 1.0, documents="other", zoo={"name": "toy@mbc"})
    with pytest.raises(LorafuseError, match=r"suites of losses \(none\)"):
        Losses(results=tmp_path / "scores").run(print)
    with pytest.raises(LorafuseError, match=r"evaluated on other rows .* Run them with the same settings"):
        Losses(results=tmp_path / "rows").run(print)


def test_they_are_registered() -> None:
    assert {"losses", "connectivity", "calibration"} <= registry.analyses().keys()
