"""Figures without a display, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lorafuse_bench.files import write_bytes


def new_figure(width: float = 7, height: float = 4) -> tuple[Figure, Axes]:
    """A figure of so many inches with one set of axes."""
    figure, (axes,) = new_panels(1, width, height)
    return figure, axes


def new_panels(count: int, width: float = 10, height: float = 4) -> tuple[Figure, list[Axes]]:
    """A figure of so many inches with sets of axes side by side."""
    figure = new_grid(1, count, width, height)
    return figure, figure.axes


def new_grid(rows: int, columns: int, width: float, height: float) -> Figure:
    """A figure of so many inches whose `axes` lie in rows and columns, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.subplots(rows, columns)
    return figure


def write_figure(figure: Figure, path: Path) -> None:
    """Write a PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=120, metadata={"Software": None})
    write_bytes(path, buffer.getvalue())


def colours() -> Iterator[tuple[float, float, float, float]]:
    """Twenty colours, over and over."""
    return cycle(colormaps["tab20"](i / 20) for i in range(20))
