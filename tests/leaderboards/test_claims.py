"""The papers' findings: their figures are the printed ones, and verdicts are what the items say."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from real_samples import shared_data
from toy_cells import write
from typer.testing import CliRunner

from lorafuse_bench.cli import app
from lorafuse_bench.leaderboards.boards.builder import build
from lorafuse_bench.leaderboards.boards.collect import collect
from lorafuse_bench.leaderboards.claims import Claim, Figures, Paper, papers, report
from lorafuse_bench.leaderboards.claims.verdicts import Verdict, verdicts

MTL7 = ("cnn_dailymail", "wmt14_en_de", "squad", "sst2", "mnli", "paws", "piqa")
FIGURES = [
    pytest.param(figures, side, id=f"{paper.name}-{claim.id}-{i}-{side}")
    for paper in papers()
    for claim in paper.claims
    for i, figures in enumerate(claim.reported)
    for side in ("left", "right")
    if getattr(figures, side) is not None
]


def test_all_five_papers_are_there() -> None:
    found = papers()
    assert [paper.name for paper in found] == ["moa", "moore", "rethinking", "spectr", "tradeoffs"]
    assert sum(len(paper.claims) for paper in found) >= 50


@pytest.mark.parametrize(("figures", "side"), FIGURES)
def test_figures_are_the_printed_ones(figures: Figures, side: str) -> None:
    file = shared_data().parent / "golden" / f"{figures.table}.json"
    if not file.is_file():
        pytest.skip(f"needs the papers' tables in {file.parent}")
    value: Any = json.loads(file.read_text())
    for key in getattr(figures, f"{side}_at"):
        value = value[key]
    assert getattr(figures, side) == value


def items(share: float, n: int, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [float(generator.random() < share) for _ in range(n)]


def paper_of(*claims: dict[str, Any]) -> Paper:
    return Paper(name="toy", title="A toy", claims=tuple(Claim.model_validate(claim) for claim in claims))


def claim_of(id: str, left: str, right: str, **fields: Any) -> dict[str, Any]:
    sides = {
        name: dict(zip(("method", "suite"), side.split("@"), strict=True))
        for name, side in (("left", left), ("right", right))
    }
    return {"id": id, "finding": "One is better.", "source": "Table 1", **sides, **fields}


def ruled(out: Path, *claims: dict[str, Any]) -> dict[str, Verdict]:
    found = verdicts(collect([out]), build([out]), [paper_of(*claims)])
    return {verdict.claim.id: verdict for verdict in found}


@pytest.fixture
def boards(tmp_path: Path) -> Path:
    """One board of 400 items a task: good .9, like it .9, middling .5, near good .86."""
    for label, shares in {
        "base": (0.05, 0.05),
        "oracle": (0.95, 0.95),
        "good": (0.9, 0.9),
        "poor": (0.5, 0.5),
        "alike": (0.9, 0.86),
    }.items():
        scores = {key: items(share, 400, i) for i, (key, share) in enumerate(zip("ab", shares, strict=True))}
        write(tmp_path, label, scores)
    return tmp_path


def test_rulings_follow_the_paired_interval(boards: Path) -> None:
    found = ruled(
        boards,
        claim_of("ahead", "good@toy", "poor@toy"),
        claim_of("behind", "poor@toy", "good@toy"),
        claim_of("self", "good@toy", "good@toy"),
        claim_of("same", "good@toy", "alike@toy", relation="about"),
        claim_of("apart", "good@toy", "poor@toy", relation="about"),
        claim_of("too narrow", "good@toy", "alike@toy", relation="about", margin=0.021),
        claim_of("absent", "good@toy", "other@toy"),
        claim_of("one task", "good@toy", "alike@toy", tasks=["a"]),
        claim_of("no such task", "good@toy", "poor@toy", tasks=["c"]),
        {"id": "analysis", "finding": "It is so.", "source": "Figure 1", "analysis": "similarity"},
    )
    assert {name: verdict.ruling for name, verdict in found.items()} == {
        "ahead": "holds",
        "behind": "does not hold",
        "self": "cannot be told",
        "same": "holds",
        "apart": "does not hold",
        "too narrow": "cannot be told",
        "absent": "not measured",
        "one task": "cannot be told",
        "no such task": "not measured",
        "analysis": "not measured",
    }
    assert found["one task"].difference == 0.0


def test_difference_and_error_by_the_delta_method(boards: Path) -> None:
    # r = x/y for each side and task; z_i = (x_i - r_x y_i - w_i + r_w y_i) / y; SE of the mean of two tasks.
    verdict = ruled(boards, claim_of("ahead", "good@toy", "poor@toy"))["ahead"]
    difference, variance = 0.0, 0.0
    for i, _ in enumerate("ab"):
        x, w, y = (items(share, 400, i) for share in (0.9, 0.5, 0.95))
        mean = sum(y) / 400
        r, s = sum(x) / 400 / mean, sum(w) / 400 / mean
        z = [(a - r * c - b + s * c) / mean for a, b, c in zip(x, w, y, strict=True)]
        difference += (r - s) / 2
        variance += sum(value**2 for value in z) / 399 / 400 / 4
    assert verdict.difference == pytest.approx(difference, abs=1e-12)
    assert verdict.low is not None
    assert (difference - verdict.low) / 1.96 == pytest.approx(math.sqrt(variance), rel=0.03)


def test_sides_on_two_boards_see_the_same_items(tmp_path: Path) -> None:
    # The second pool loses two items of the first's and wins none: paired, 2 of 60 less is little but all one way.
    good, less = [1.0] * 50 + [0.0] * 10, [1.0] * 44 + [0.0] * 16
    for suite, scores in (("small", good), ("large", less)):
        write(tmp_path, "base", {"a": [0.0] * 60}, suite=suite)
        write(tmp_path, "oracle", {"a": [1.0] * 60}, suite=suite)
        write(tmp_path, "concat", {"a": scores}, suite=suite)
    verdict = ruled(tmp_path, claim_of("more", "concat@small", "concat@large"))["more"]
    assert verdict.difference == pytest.approx(0.1)
    assert verdict.high is not None
    assert (verdict.high - 0.1) / 1.96 == pytest.approx(math.sqrt(0.1 * 0.9 / 60), rel=0.05)
    assert verdict.ruling == "holds"


def test_a_side_may_be_of_another_bank_and_a_suite_stand_in(tmp_path: Path) -> None:
    """The same method on the boards of two banks; a finding on a suite is held on the one that stands in for it."""
    for zoo, loss in (("toy", 2.0), ("toy@mbc", 1.5)):
        for label, own in (("base", 3.0), ("oracle", 1.0), ("arrow", loss)):
            told = [[own + i % 3 / 10, 1.0] for i in range(90)]
            write(tmp_path, label, {"a": told}, loss=("a",), suite="like", zoo={"name": zoo})
    claim = claim_of("bank", "arrow@printed", "arrow@printed")
    claim["left"]["bank"] = "mbc"
    alone, standing = (
        paper_of(claim),
        paper_of(claim).model_copy(update={"stand_ins": {"printed": ("like",)}}),
    )
    (unmeasured,) = verdicts(collect([tmp_path]), build([tmp_path]), [alone])
    (measured,) = verdicts(
        collect([tmp_path]), build([tmp_path]), [standing]
    )  # not on toy@mbc, which has no mbc
    assert unmeasured.ruling == "not measured"
    assert (measured.zoo, measured.ruling) == ("toy", "holds")
    assert measured.difference == pytest.approx(0.5)
    assert report.sides(measured.claim) == "arrow@mbc over arrow on like"


def test_a_variant_does_not_stand_for_its_method(boards: Path) -> None:
    write(boards, "merge:average=true", {key: items(0.9, 400, 1) for key in "ab"})
    found = ruled(
        boards,
        claim_of("method", "merge@toy", "poor@toy"),
        claim_of("variant", "merge:average=true@toy", "poor@toy"),
    )
    assert found["method"].ruling == "not measured"
    assert found["variant"].ruling != "not measured"


def test_a_lower_loss_is_ahead(tmp_path: Path) -> None:
    for label, loss in (("base", 3.0), ("oracle", 1.0), ("ensemble", 1.5), ("arrow", 2.0)):
        write(tmp_path, label, {"a": [[loss + i % 3 / 10, 1.0] for i in range(90)]}, loss=("a",))
    verdict = ruled(tmp_path, claim_of("loss", "ensemble@toy", "arrow@toy"))["loss"]
    assert verdict.difference == pytest.approx(0.5)
    assert verdict.ruling == "holds"


def test_holm_counts_the_findings_of_one_paper(boards: Path) -> None:
    close = claim_of("close", "good@toy", "alike@toy", tasks=["b"])
    alone = ruled(boards, close)["close"].p
    among = ruled(boards, close, *(claim_of(f"self{i}", "poor@toy", "poor@toy") for i in range(3)))["close"].p
    assert alone is not None
    assert among == pytest.approx(min(1.0, 4 * alone))


def test_the_command_prints_writes_and_escapes(boards: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["leaderboard", "claims", str(boards), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert {one["ruling"] for one in found} == {"not measured"}
    hostile = tmp_path / "hostile"
    for label, share in (("base", 0.0), ("oracle", 1.0), ("moa", 1.0)):
        zoo = {"name": "<script>x</script>|"}
        write(hostile, label, {key: [share] * 20 for key in MTL7}, suite="mtl7", zoo=zoo)
    options = ["--html", str(tmp_path / "site"), "--markdown", str(tmp_path / "claims.md"), "--allow-limit"]
    shown = CliRunner().invoke(app, ["leaderboard", "claims", str(hostile), *options])
    assert shown.exit_code == 0, shown.output
    page = (tmp_path / "site/claims.html").read_text()
    assert "<script>x" not in page
    assert "&lt;script&gt;x" in page
    assert "\\|" in (tmp_path / "claims.md").read_text()


def test_the_page_of_findings_is_what_the_boards_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    said = (root / "docs" / "results.md").read_text()
    (command,) = (
        line.split() for line in said.splitlines() if line.strip().startswith("lorafuse leaderboard claims")
    )
    assert "docs/claims.md" in command
    monkeypatch.chdir(root)
    written = [word.replace("docs/claims.md", str(tmp_path / "claims.md")) for word in command[1:]]
    done = CliRunner().invoke(app, written)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "claims.md").read_text() == (root / "docs" / "claims.md").read_text()
