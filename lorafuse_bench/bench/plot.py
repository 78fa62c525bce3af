"""The plots of cost against the number of experts, and of serving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lorafuse_bench.picture import new_figure, new_panels, write_figure


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


def plot_serve(result: dict[str, Any], path: Path) -> None:
    """Write a PNG of tokens per second (lines: medians, bars: all passes) and time to the first token.

    Against concurrency, under the first mix.
    """
    mix = result["points"][0]["mix"]
    points = [point for point in result["points"] if point["mix"] == mix]
    lines: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for point in sorted(points, key=lambda point: point["concurrency"]):
        lines.setdefault((point["backend"], point["method"]), []).append(point)
    figure, (rate, first) = new_panels(2)
    colours = {method: f"C{i}" for i, method in enumerate(dict.fromkeys(method for _, method in lines))}
    styles = {"vllm": "-o", "hf": "--s", "peft": ":^"}
    for (backend, method), line in lines.items():
        n = [point["concurrency"] for point in line]
        look: dict[str, Any] = {"label": f"{backend} {method}", "color": colours[method]}
        rate.plot(n, [point["tokens_per_second"] for point in line], styles[backend], **look)
        low, high = ([point[f"tokens_per_second_{end}"] for point in line] for end in ("low", "high"))
        rate.vlines(n, low, high, color=colours[method], alpha=0.3)
        first.plot(n, [1000 * point["first_token_seconds"]["p50"] for point in line], styles[backend], **look)
    for axes, title in (
        (rate, "generated tokens per second"),
        (first, "time to the first token, median, ms"),
    ):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({point["concurrency"] for point in points})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
        axes.set_xlabel(f"requests at a time (mix: {mix})")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    figure.legend(*rate.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    write_figure(figure, path)
