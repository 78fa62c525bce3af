"""The plot of cost against the number of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorafuse_bench.analysis.picture import new_figure, write_figure


def plot_sweep(result: dict[str, Any], path: Path) -> None:
    """Write a PNG of time over base against N for every router, beside the added operations."""
    points = result["sweep"]["points"]
    n = [p["experts"] for p in points]
    figure, axes = new_figure(width=6)
    for name in (x for x in points[0]["alternatives"] if x != "base"):
        axes.plot(n, [p["alternatives"][name]["ratio"] for p in points], marker="o", label=name)
    axes.plot(n, [p["flops_ratio"] for p in points], "k--", label="floating-point operations")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(n, [str(x) for x in n])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("experts N")
    axes.set_ylabel("forward pass, times the base's")
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(figure, path)
