"""The plot of cost against the number of experts."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lorafuse_bench.files import write_bytes


def plot_sweep(result: dict[str, Any], path: Path) -> None:
    """Write a PNG of time over base against N for every router, beside the added operations."""
    points = result["sweep"]["points"]
    n = [p["experts"] for p in points]
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
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
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())
