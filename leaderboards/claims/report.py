"""Verdicts for people and machines: Markdown, a page, JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lorafuse_bench.leaderboards.boards import text
from lorafuse_bench.leaderboards.claims import Claim, Paper, Side
from lorafuse_bench.leaderboards.claims.verdicts import Verdict
from lorafuse_bench.leaderboards.pages import html

HEADINGS = ("finding", "reported", "zoo", "left", "right", "difference, 95%", "p", "ruling")


def cells(verdict: Verdict) -> tuple[str, ...]:
    """One line of the table, as HEADINGS name it."""
    finding = f"{verdict.claim.finding} ({verdict.claim.source})"
    if verdict.difference is None or verdict.low is None or verdict.high is None:
        why = (
            f"needs the analysis {verdict.claim.analysis}" if verdict.claim.analysis else sides(verdict.claim)
        )
        return (finding, reported(verdict.claim), "–", "", "", "", "", f"not measured: {why}")
    return (
        finding,
        reported(verdict.claim),
        f"{verdict.zoo}" + (f", {verdict.seeds} seeds" if verdict.seeds > 1 else ""),
        text.number(verdict.left or 0.0),
        text.number(verdict.right or 0.0),
        f"{text.signed(verdict.difference)} [{text.signed(verdict.low)}, {text.signed(verdict.high)}]",
        "< .001" if (verdict.p or 0.0) < 1e-3 else f"{verdict.p:.3f}".removeprefix("0"),
        verdict.ruling,
    )


def sides(claim: Claim) -> str:
    """`concat on mtl7 over svd on mtl7`, the suite said once where it is one."""
    if claim.left is None or claim.right is None:
        return ""
    left, right = claim.left, claim.right
    if left.suite == right.suite:
        return f"{_method(left)} {claim.relation} {_method(right)} on {left.suite}"
    return f"{_method(left)} on {left.suite} {claim.relation} {_method(right)} on {right.suite}"


def _method(side: Side) -> str:
    """`concat`, or `concat@mbc` of another bank's experts."""
    return side.method if side.bank == "private" else f"{side.method}@{side.bank}"


def reported(claim: Claim) -> str:
    """`.771 : .704 (Qwen2-1.5B)` for each printed pair; empty where only a picture is."""
    parts = []
    for figures in claim.reported:
        printed = " : ".join(f"{value:g}" for value in (figures.left, figures.right) if value is not None)
        parts.append(f"{printed} ({figures.model})" if figures.model else printed)
    return ", ".join(parts)


def markdown(papers: Sequence[Paper], verdicts: Sequence[Verdict]) -> str:
    """One table per paper."""
    lines: list[str] = []
    for paper in papers:
        lines += [f"### {paper.title}", ""]
        if paper.note:
            lines += [paper.note, ""]
        lines += [_line(HEADINGS), _line(["---"] * len(HEADINGS))]
        lines += [_line(cells(verdict)) for verdict in verdicts if verdict.paper == paper.name]
        lines.append("")
    return "\n".join(lines)


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|").replace("\n", " ") for value in values) + " |"


def as_json(verdicts: Sequence[Verdict]) -> list[dict[str, Any]]:
    """Every verdict with its claim."""
    return [
        {
            "paper": verdict.paper,
            "claim": verdict.claim.model_dump(mode="json"),
            "zoo": verdict.zoo,
            "ruling": verdict.ruling,
            "left": verdict.left,
            "right": verdict.right,
            "difference": verdict.difference,
            "interval": None if verdict.low is None else [verdict.low, verdict.high],
            "p_holm": verdict.p,
            "tasks": list(verdict.tasks),
            "seeds": verdict.seeds,
        }
        for verdict in verdicts
    ]


def page(papers: Sequence[Paper], verdicts: Sequence[Verdict]) -> str:
    """A static page in the leaderboard's own style."""
    by_paper = [(paper, [each for each in verdicts if each.paper == paper.name]) for paper in papers]
    return html.render(
        "claims", ("dom", "theme"), home="index.html", papers=by_paper, headings=HEADINGS, cells=cells
    )
