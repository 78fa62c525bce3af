"""What a task's YAML says of its metrics and filters, lm-eval's defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lorafuse_bench.leaderboards.measures import reader
from lorafuse_bench.tasks import catalogue

_MEANS = ("mean", "bits_per_byte")
_FUNCTION = "!function "
_DERIVED = frozenset({"score", "byte_perplexity"})
"""Metrics of ours that repeat another one."""


@dataclass(frozen=True)
class Listed:
    """A task's metrics in its order, with direction and aggregation where known, and its filters."""

    metrics: tuple[str, ...]
    directions: dict[str, Literal["up", "down"]]
    aggregations: dict[str, str]
    filters: tuple[str, ...]
    kept: tuple[str, ...]
    """The metrics whose value a measure makes of items."""

    def main(self) -> str | None:
        """The first metric whose value is a mean over items or bits per byte, else the first that is kept."""
        means = [name for name in self.metrics if self.aggregations.get(name) in _MEANS]
        return next(iter((*means, *self.kept)), None)


def listed_metrics(config: Mapping[str, Any]) -> Listed:
    """The metrics and filters of a task as its YAML has it (see `catalogue.read`).

    Of a task written in Python without a list of metrics none are known before it runs.
    """
    config = _as_borrowed(config)
    entries = [entry for entry in config.get("metric_list") or () if isinstance(entry, dict)]
    if not entries:
        entries = [{"metric": name} for name in _defaults(config)]
    entries = [entry for entry in entries if not str(entry.get("metric", "")).endswith("_stderr")]
    directions: dict[str, Literal["up", "down"]] = {}
    aggregations, kept = {}, []
    for entry in entries:
        name = _bare(entry["metric"])
        up = entry["higher_is_better"] if "higher_is_better" in entry else _registered(name).get("up")
        if up is not None:
            directions[name] = "up" if up else "down"
        made = entry["aggregation"] if "aggregation" in entry else _registered(name).get("aggregation")
        if made is not None:
            aggregations[name] = str(made).removeprefix(_FUNCTION)
            if name not in _DERIVED and reader(aggregations[name]):
                kept.append(name)
    filters = tuple(str(one["name"]) for one in config.get("filter_list") or () if isinstance(one, dict))
    metrics = tuple(_bare(entry["metric"]) for entry in entries)
    return Listed(metrics, directions, aggregations, filters or ("none",), tuple(kept))


def _as_borrowed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A leaf that refers to a file of lm-eval's has what that file says, under one filter, `none`."""
    if "lm_eval" not in config:
        return config
    path = min(catalogue.lm_eval_folder().glob(str(config["lm_eval"])))
    theirs = catalogue.read(path)
    return {**theirs, **config, "filter_list": None}


def _bare(name: Any) -> str:
    """`!function utils.f1` -> `f1`, as lm-eval names a metric that is a function."""
    text = str(name)
    return text.rpartition(".")[2] if text.startswith(_FUNCTION) else text


def _defaults(config: Mapping[str, Any]) -> list[str]:
    if "output_type" not in config or "class" in config:
        return []
    from lm_eval.api.registry import DEFAULT_METRIC_REGISTRY

    return list(DEFAULT_METRIC_REGISTRY.get(config["output_type"], ()))


def _registered(name: str) -> dict[str, Any]:
    """Direction and aggregation that lm-eval knows for a metric of its own."""
    import lm_eval.api.metrics  # noqa: F401  its import registers them
    from lm_eval.api import registry

    made = registry.METRIC_AGGREGATION_REGISTRY.get(name)
    names = {function: name for name, function in registry.AGGREGATION_REGISTRY.items()}
    return {
        "up": registry.HIGHER_IS_BETTER_REGISTRY.get(name),
        "aggregation": names.get(made),
    }
