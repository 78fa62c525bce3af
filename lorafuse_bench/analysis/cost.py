"""What fusing N experts costs: numbers stored, numbers in memory, operations a token."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from pydantic import Field
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lorafuse_bench.analysis.base import Analysis, Count, Part, Say, option
from lorafuse_bench.analysis.registry import register
from lorafuse_bench.bench.models import Shape, random_model, random_zoo
from lorafuse_bench.device import AUTO, device_of
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Ensembling, FusionMethod, Merge, Prompts
from lorafuse_bench.fusion.papers import SPECTR
from lorafuse_bench.layers import linear_shape
from lorafuse_bench.picture import new_panels


def _product(y: Sequence[int], a: Sequence[int], b: Sequence[int], **_: Any) -> int:
    """Operations of `y + a b`, from the shapes, of a batch or of one."""
    return 2 * prod(a) * b[-1]


IN_PLACE = {torch.ops.aten.addmm_: _product, torch.ops.aten.baddbmm_: _product}
"""What torch's counter leaves out: inference writes these products in place."""


class Numbers(Part):
    """One method's cost beside the base's."""

    storage: int = Field(description="numbers on disk")
    memory: int = Field(description="numbers in memory, one batch's hidden states left out")
    flops_per_token: float = Field(description="operations of matrix products a token, two a multiply-add")


class MethodCost(Part):
    """What a formula says and what was counted."""

    computed: Numbers | None = Field(description="by formula; None for a method without one here")
    measured: Numbers | None = Field(description="counted; None for a method that must be fitted first")


class CostResult(Part):
    """The cost of every method at one size."""

    experts: int = Field(description="N")
    rank: int = Field(description="r")
    hidden_size: int = Field(description="width of the model")
    layers: int = Field(description="transformer blocks; all their linear maps are adapted")
    device: str = Field(description="where it was counted")
    base: Numbers = Field(description="the base's own, with its output layer and without its embeddings")
    methods: dict[str, MethodCost] = Field(description="method to its cost")


@dataclass(frozen=True)
class Sizes:
    """N experts of rank r on maps of which `maps` are the (out, in); `head` numbers of the output layer."""

    n: int
    r: int
    maps: tuple[tuple[int, int], ...]
    head: int

    @property
    def both(self) -> int:
        """`Σ (in + out)`: numbers of one expert of rank 1."""
        return sum(out + into for out, into in self.maps)

    @property
    def into(self) -> int:
        return sum(into for _, into in self.maps)

    @property
    def dense(self) -> int:
        return sum(out * into for out, into in self.maps)


def _one(rank: Callable[[Sizes], int]) -> Callable[[Sizes], Numbers]:
    """One adapter of that rank."""

    def cost(s: Sizes) -> Numbers:
        size = rank(s) * s.both
        return Numbers(storage=size, memory=size, flops_per_token=2 * size)

    return cost


def _dense(s: Sizes) -> Numbers:
    return Numbers(storage=s.dense, memory=s.dense, flops_per_token=2 * s.dense)


def _rows(s: Sizes) -> Numbers:
    """One expert a row, out of all."""
    size = s.r * s.both
    return Numbers(storage=s.n * size, memory=s.n * size, flops_per_token=2 * size)


def _arrow(s: Sizes) -> Numbers:
    """All experts' A and B at every token; each one's direction, as r numbers on what its A gives."""
    size = s.n * s.r * s.both
    return Numbers(storage=size, memory=size + len(s.maps) * s.n * s.r, flops_per_token=2 * size)


def _spectr(s: Sizes) -> Numbers:
    """All experts' A and B at every token; each one's `A* = S Vᵀ`, as an `(r, r)` matrix on what its A gives."""
    size, inner = s.n * s.r * s.both, len(s.maps) * s.n * s.r**2
    return Numbers(storage=size, memory=size + inner, flops_per_token=2 * (size + inner))


def _ensemble(s: Sizes) -> Numbers:
    """N passes of the base where there was one, each with an expert."""
    rows = _rows(s)
    more = (s.n - 1) * 2 * (s.dense + s.head) + s.n * rows.flops_per_token
    return Numbers(storage=rows.storage, memory=rows.memory, flops_per_token=more)


FORMULAS: Mapping[str, Callable[[Sizes], Numbers]] = {
    "concat": _one(lambda s: s.n * s.r),
    "mu": _one(lambda s: s.n * s.r),
    "merge_uniform": _one(lambda s: s.r),
    "weight_sum": _one(lambda s: s.r),
    "svd": _one(lambda s: s.r),
    "ties": _dense,
    "dare": _dense,
    "dare_ties": _dense,
    "knots": _one(lambda s: s.n * s.r),
    "oracle": _rows,
    "arrow": _arrow,
    "spectr": _spectr,
    "ensemble": _ensemble,
}
"""Method, at its defaults, to its cost."""


@register
@dataclass(frozen=True, kw_only=True)
class Cost(Analysis[CostResult]):
    """Storage, memory and operations a token of every method, computed and counted, on random experts.

    With `D = Σ (in + out)` over the adapted maps: an adapter of rank R stores `R D` and takes `2 R D` operations a
    token; one expert a row of N stores `N r D` and takes `2 r D`; routers of tokens store `N r D` and take `2 N r D`.
    Arrow's prototypes are the first rows of `Vᵀ` here, so they need no `N in` numbers of their own, as the paper
    counts. Attention and element-wise operations are left out, as torch's counter does on a CPU.
    """

    methods: str | None = option(None, "methods separated by commas; by default all that fuse experts")
    experts: Count = option(8, "N")
    rank: Count = option(8, "r")
    hidden_size: Count = option(256, "width of a random model with an MLP of four times that")
    layers: Count = option(2, "its transformer blocks")
    device: str = option(AUTO, "auto, cpu, cuda, cuda:1, ...: auto is a GPU where there is one")

    name = "cost"
    paper = f"{SPECTR}, section 5"

    def run(self, say: Say) -> CostResult:
        chosen = registry.parse_all(self.methods) if self.methods else _all()
        shape = Shape(hidden_size=self.hidden_size, layers=self.layers, rank=self.rank)
        with tempfile.TemporaryDirectory() as folder:
            zoo, _ = random_zoo(Path(folder), shape, self.experts)
            read = ExpertPool.from_zoo(zoo).experts
        pool = ExpertPool([replace(expert, tasks=(expert.name,)) for expert in read])
        model = random_model(shape)
        nn.Module.to(model, device_of(self.device))
        fused = FusedModel(model, zoo, pool)
        sizes = sizes_of(fused, self.rank)
        base = 2 * (sizes.dense + sizes.head)
        found = {}
        for method in chosen:
            say(method.label())
            formula = FORMULAS.get(method.label())
            found[method.label()] = MethodCost(
                computed=formula(sizes) if formula else None, measured=_measured(fused, method)
            )
        return CostResult(
            experts=self.experts,
            rank=self.rank,
            hidden_size=self.hidden_size,
            layers=self.layers,
            device=fused.model.device.type,
            base=Numbers(storage=base // 2, memory=base // 2, flops_per_token=base),
            methods=found,
        )

    def figure(self, result: CostResult) -> Figure:
        """Memory and operations over the base's: bars counted, dots computed."""
        shown = {label: cost for label, cost in result.methods.items() if cost.computed or cost.measured}
        figure, panels = new_panels(2, width=11, height=1.2 + 0.26 * len(shown))
        for axes, what in zip(panels, ("memory", "flops_per_token"), strict=True):
            whole = getattr(result.base, what)
            for kind in ("measured", "computed"):
                values = {k: getattr(c, kind) for k, c in shown.items() if getattr(c, kind)}
                shares = [getattr(numbers, what) / whole for numbers in values.values()]
                if kind == "measured":
                    axes.barh(list(values), shares, label="counted", color="tab:blue")
                else:
                    axes.plot(shares, list(values), "o", label="computed", color="tab:orange")
            axes.set_xscale("log")
            axes.set_xlabel(f"added {what.replace('_', ' ')}, over the base's")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
        return figure


def sizes_of(fused: FusedModel, rank: int) -> Sizes:
    """The sizes of a loaded model with its pool."""
    maps = tuple(linear_shape(fused.base.modules[name], name) for name in fused.pool.modules)
    out, into = linear_shape(fused.model.get_output_embeddings(), "the output layer")
    return Sizes(len(fused.pool), rank, maps, out * into)


def _all() -> list[FusionMethod]:
    return [cls() for cls in registry.methods().values() if cls.fuses_experts]


def _measured(fused: FusedModel, method: FusionMethod) -> Numbers | None:
    """What torch counts in one forward pass, less the base's; None where something must be fitted first."""
    try:
        fused.use(method)
    except LorafuseError:
        if not method.needs:
            raise
        return None
    experts = sum(stack.A.numel() + stack.B.numel() for stack in fused.pool.modules.values())
    memory = fused.extra_parameters
    flops = _operations(fused, method)
    fused.clear()
    return Numbers(
        storage=memory if isinstance(method, Merge) else experts,
        memory=memory,
        flops_per_token=flops - _operations(fused, None),
    )


@torch.no_grad()
def _operations(fused: FusedModel, method: FusionMethod | None, rows: int = 2, tokens: int = 4) -> float:
    """Operations a token of a batch whose rows are of different tasks."""
    ids = torch.ones(rows, tokens, dtype=torch.long, device=fused.model.device)
    tasks = tuple(fused.pool.experts[row % len(fused.pool)].tasks[0] for row in range(rows))
    prompts = Prompts(ids, torch.full((rows,), tokens, device=ids.device), tasks)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        if isinstance(method, Ensembling):
            index = method.members(fused).index.to(ids.device)
            ids = ids.repeat_interleave(len(index), 0)
            fused.selection.set(index.repeat(rows, 1))
        elif method is not None:
            fused.selection.set(fused.select(prompts))
        fused.model(input_ids=ids, use_cache=False)
    fused.selection.set(None)
    return float(counter.get_total_flops()) / (rows * tokens)
