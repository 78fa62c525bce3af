"""Hierarchical routing: learned weights inside clusters of experts, and a learned router over the clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import Family, Runtime, option
from lorafuse_bench.fusion.fitted import Fitted, Fitting, Parameters, Passes, groups
from lorafuse_bench.fusion.papers import TRADEOFFS
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.fusion.routing.clusters import clusters_of
from lorafuse_bench.fusion.routing.gates import AtMost, expert_svd, mixed, softmax_top_k
from lorafuse_bench.layers import GatedUpdate, Update

CLUSTERS, INSIDE = "clusters", "inside"


@register
@dataclass(frozen=True)
class Hc(Fitted):
    """Per token and linear map: clusters of experts, routed by a learned map and merged inside by learned weights.

    The weight of expert i at x is `softmax(W x)_c(i) · μ_i`: `W (C, in)` per linear map, μ (N,) the softmax inside
    each cluster of logits that start at 0, one for all maps or one per block (`scope=layer`); both are learned
    jointly by Adam on the tasks' loss, no task id. Merge-before, `y = Wx + (Σ_i λ_i s_i B_i)(Σ_j λ_j A_j) x`.
    Clusters: the zoo's, where `lorafuse zoo cluster` made so many of these experts, else KMeans of the experts'
    factors; kept with the fit. W starts at 0. `k` renormalises the k largest weights at inference only.
    Source: trade-offs, section 5.3. Needs a fit. Cost: as routing_sgd, with C directions.
    """

    clusters: int = option(AtMost(10), "clusters of experts; the paper's 10, or as many as experts")
    scope: Literal["global", "layer"] = option("global", "one μ for all linear maps, or one per block")
    k: int | Literal["all"] = option("all", "experts kept per token at inference, or all")

    name = "hc"
    family: ClassVar[Family] = "routing"
    paper = f"{TRADEOFFS}, section 5.3"
    at_use: ClassVar[frozenset[str]] = frozenset({"k"})

    @property
    def merge_before(self) -> bool:
        return True

    def check(self, pool: ExpertPool) -> None:
        super().check(pool)
        self._count(pool)
        mixed(self.name, self.k, len(pool))

    def _count(self, pool: ExpertPool) -> int:
        return mixed(self.name, self.clusters, len(pool), "clusters")

    def prototypes(self, stack: ModuleStack, clusters: Tensor) -> Tensor:
        """The start of one map's W, `(C, in)`."""
        return torch.zeros(int(clusters.max()) + 1, stack.shape[1])

    def start(self, runtime: Runtime, clusters: Tensor | None = None) -> dict[str, Tensor]:
        """Each map's W by its name, the logits of μ, and the clusters: those given, else made with seed 0."""
        pool = runtime.pool
        if clusters is None:
            clusters = clusters_of(pool, self._count(pool))
        inside = torch.zeros(max(groups(pool, self.scope).values()) + 1, len(pool))
        maps = {name: self.prototypes(stack, clusters) for name, stack in pool.modules.items()}
        return {**maps, INSIDE: inside, CLUSTERS: clusters}

    def budget(self, experts: int) -> Passes:
        return {}

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        start = self.start(fitting.runtime, fitting.clusters(self._count(pool)))
        fixed = {CLUSTERS: start.pop(CLUSTERS)}
        whole = len(pool)
        return fitting.descend(start, lambda found: self._updates(pool, {**found, **fixed}, whole)) | fixed

    def updates(self, runtime: Runtime) -> Mapping[str, Update]:
        k = mixed(self.name, self.k, len(runtime.pool))
        return self._updates(runtime.pool, runtime.artefact(self).tensors, k)

    def _updates(self, pool: ExpertPool, found: Parameters, k: int) -> dict[str, Update]:
        clusters, group = found[CLUSTERS].to(found[INSIDE].device), groups(pool, self.scope)
        inside = [log_inside(logits, clusters) for logits in found[INSIDE]]
        return {
            module: GatedUpdate(
                stack.A,
                stack.B,
                partial(_log_weights, clusters=clusters, inside=inside[group[module]]),
                partial(softmax_top_k, k=k) if k < len(pool) else torch.exp,
                absent=[False] * len(pool),
                merge="before",
                probes=found[module].to(stack.A.device),
            )
            for module, stack in pool.modules.items()
        }


@register
@dataclass(frozen=True)
class ArrowHc(Hc):
    """Hierarchical routing whose clusters start at Arrow's prototypes.

    As `hc`, with row c of each map's W starting at the top right singular vector of the mean update of cluster c:
    our reading of "initialised from Arrow". Source: trade-offs, section 5.3. Needs a fit. Cost: as hc.
    """

    name = "arrow_hc"

    def prototypes(self, stack: ModuleStack, clusters: Tensor) -> Tensor:
        return torch.cat([_mean_prototype(stack, clusters == c) for c in range(int(clusters.max()) + 1)])


def log_inside(logits: Tensor, clusters: Tensor) -> Tensor:
    """`log μ (N,)`: the log-softmax of `logits (N,)` inside each of `clusters (N,)`."""
    same = clusters[:, None] == clusters
    return logits - logits.expand(len(logits), -1).masked_fill(~same, float("-inf")).logsumexp(-1)


def _log_weights(hidden: Tensor, probed: Tensor, clusters: Tensor, inside: Tensor) -> Tensor:
    """`log(softmax(W x)_c(i) · μ_i)` for every expert i."""
    return probed.log_softmax(-1)[..., clusters.to(probed.device)] + inside.to(probed)


def _mean_prototype(stack: ModuleStack, members: Tensor) -> Tensor:
    """`(1, in)`: the top right singular vector of the mean of the members' updates, from its concatenated factors."""
    members = members.to(stack.A.device)
    a, b = stack.A[members].flatten(0, 1), stack.B[members].transpose(0, 1).flatten(1)
    mean = ModuleStack(a[None], b[None] / int(members.sum()), stack.scaling[:1], (len(a),))
    return expert_svd(mean)[2][:, 0].contiguous()
