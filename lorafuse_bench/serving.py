"""How a method is served by an engine that applies at most one LoRA adapter to a sequence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.export import export_merge, export_pool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod, Merge, RowRouting
from lorafuse_bench.fusion.floors import Base
from lorafuse_bench.heads import fit

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values vLLM takes for max_lora_rank."""

How = Literal["base", "adapter", "adapters", "merged"]


@dataclass(frozen=True)
class Served:
    """The files to serve: a model and adapters, in the order of the experts or one for all requests."""

    how: How
    model: Path
    adapters: tuple[Path, ...] = ()
    rank: int = 1
    """The least of RANKS that holds every adapter."""
    targets: tuple[str, ...] = ()
    """Last names of the adapted modules."""


def how_served(method: FusionMethod) -> How:
    """Whether requests get no adapter, the same one, or each its own; LorafuseError listing what can be served."""
    if isinstance(method, Base):
        return "base"
    if isinstance(method, Merge):
        return "adapter"
    if isinstance(method, RowRouting) and method.one_expert_per_sequence:
        return "adapters"
    able = [name for name, cls in registry.methods().items() if issubclass(cls, Base | Merge | RowRouting)]
    raise LorafuseError(
        f"method '{method.label()}' needs more than one adapter per sequence and cannot be served by vLLM."
        f" These can: {', '.join(able)} (moa with decision=last or vote). Use --model lorafuse."
    )


def serve(
    fused: FusedModel,
    folder: Path,
    max_rank: int | None = None,
    head_sizes: Sequence[int] | None = None,
) -> Served:
    """Write what `fused`'s method needs to be served into `folder`.

    A merge becomes one adapter, or is added to the base where it is full-rank or its rank exceeds `max_rank`
    (the engine's own limit by default). Row routing becomes an adapter per expert. `head_sizes` are those
    that the engine's attention serves, None for any: a base with others gets wider heads.
    Raises LorafuseError for a method that is not one adapter per sequence, an expert over `max_rank`, and
    adapters on the output layer.
    """
    assert fused.method is not None
    limit = _limit(max_rank)
    how = how_served(fused.method)
    model = fused.zoo.base_folder()
    adapters: tuple[Path, ...] = ()
    if how == "adapters":
        assert isinstance(fused.method, RowRouting)
        written = export_pool(fused.method.experts(fused), fused.zoo, folder / "experts")
        adapters = tuple(one.path for one in written)
        for path in adapters:
            _check_rank(path, limit)
    elif how == "adapter":
        merged = export_merge(fused.method, fused.zoo, folder / "merge", fused.pool.names)
        if (
            merged.kind == "adapter"
            and _rank(merged.path) <= limit
            and "lm_head" not in _targets(merged.path)
        ):
            adapters = (merged.path,)
        else:
            how = "merged"
            model = merged.path if merged.kind == "model" else _into_base(fused, folder)
    return _fitted(Served(how, model, adapters), folder, head_sizes)


def _into_base(fused: FusedModel, folder: Path) -> Path:
    assert fused.method is not None
    return export_merge(fused.method, fused.zoo, folder / "whole", fused.pool.names, whole=True).path


def _fitted(served: Served, folder: Path, head_sizes: Sequence[int] | None) -> Served:
    """With heads that the engine serves, and the facts about the adapters read off their files."""
    model, adapters = served.model, served.adapters
    if head_sizes:
        model, fitted = fit(model, adapters, head_sizes, folder / "wide")
        adapters = tuple(fitted)
    rank = max((_rank(path) for path in adapters), default=1)
    targets = sorted({name for path in adapters for name in _targets(path)})
    return Served(
        served.how, model, adapters, next(least for least in RANKS if least >= rank), tuple(targets)
    )


def _limit(max_rank: int | None) -> int:
    if max_rank is None:
        return RANKS[-1]
    if max_rank not in RANKS:
        raise LorafuseError(
            f"max_lora_rank={max_rank}: vLLM takes only {', '.join(map(str, RANKS))}. Choose one."
        )
    return max_rank


def _check_rank(path: Path, limit: int) -> None:
    rank = _rank(path)
    if rank > limit:
        raise LorafuseError(
            f"adapter '{path.name}' has rank {rank}, over max_lora_rank={limit}. Raise it (up to {RANKS[-1]})"
            f" or leave it out of --model_args."
            if rank <= RANKS[-1]
            else f"adapter '{path.name}' has rank {rank}, over vLLM's {RANKS[-1]}. Use --model lorafuse."
        )
    if "lm_head" in _targets(path):
        raise LorafuseError(
            f"adapter '{path.name}' adapts the output layer: vLLM cannot score prompts with it. Use --model lorafuse."
        )


def _rank(path: Path) -> int:
    return int(json.loads((path / "adapter_config.json").read_text())["r"])


def _targets(path: Path) -> set[str]:
    config = json.loads((path / "adapter_config.json").read_text())
    return {module.rsplit(".", 1)[-1] for module in config["target_modules"]}
