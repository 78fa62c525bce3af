"""Groups of similar experts (MBC: model-based clustering), by the direction of their factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.zoo.entries import Clusters, Manifest
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import Zoo
from lorafuse_bench.zoo.pools import named

RESTARTS = 10
"""Number of starts of KMeans; the best is kept."""


def cluster(zoo: Zoo, count: int, seed: int = 0, svd: int | None = None) -> Zoo:
    """Group a zoo's private experts into `count` clusters and write these into its manifest.

    An expert is the vector of all its A and B, unscaled. KMeans on the vectors' directions, so by cosine
    (Ostapenko et al. 2024, "Towards modular LLMs by building and reusing a library of LoRAs", section 4.1).
    `svd` keeps so many dimensions, as a truncated SVD does. Raises LorafuseError for more clusters than
    experts that differ.
    """
    writable(zoo.root)
    entries = named(zoo, ["@private"])
    if not 1 <= count <= len(entries):
        raise LorafuseError(
            f"{count} clusters of {len(entries)} experts: each needs at least one. Ask for 1 to {len(entries)}."
        )
    pool = ExpertPool.from_entries(zoo, entries)
    labels = kmeans(coordinates(gram(pool), svd), count, seed)
    found = Clusters(
        members=members(pool.names, labels),
        experts={expert.name: expert.sha256 for expert in pool.experts},
        seed=seed,
        svd=svd,
    )

    def entered(there: Manifest | None) -> Manifest:
        return (there or zoo.manifest).model_copy(update={"clusters": found})

    return Zoo.update(zoo.root, entered)


def gram(pool: ExpertPool) -> NDArray[np.float64]:
    """`G_ij = v_i · v_j (N, N)`, v an expert's factors in one vector, which is never built."""
    total = np.zeros((len(pool), len(pool)))
    for stack in pool.modules.values():
        b = stack.B / stack.scaling[:, None, None]
        for factor in (stack.A, b):
            flat = factor.flatten(1).double()
            total += (flat @ flat.T).cpu().numpy()
    return total


def coordinates(gram: NDArray[np.float64], svd: int | None = None) -> NDArray[np.float64]:
    """Vectors of length 1 `(N, d)` in the directions of those whose products are `gram`.

    `G = U Λ Uᵀ` gives `U Λ^½`, the same vectors turned; its first d columns are those of a truncated SVD.
    """
    values, vectors = np.linalg.eigh(gram)
    placed = (vectors * np.sqrt(values.clip(min=0)))[:, ::-1][:, :svd]
    lengths = np.linalg.norm(placed, axis=1, keepdims=True)
    return placed / np.where(lengths > 0, lengths, 1)


def kmeans(points: NDArray[np.float64], count: int, seed: int) -> list[int]:
    """A cluster for each point `(N, d)`; LorafuseError where fewer than `count` of them differ."""
    distinct = len(np.unique(points.round(9), axis=0))
    if distinct < count:
        raise LorafuseError(f"{count} clusters, and only {distinct} experts that differ. Ask for {distinct}.")
    from sklearn.cluster import KMeans  # a second and more, that every command would wait for

    return [int(x) for x in KMeans(count, n_init=RESTARTS, random_state=seed).fit_predict(points)]


def members(names: Sequence[str], labels: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """The names of each cluster; clusters in the order of their first member."""
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(label, []).append(name)
    return tuple(tuple(group) for group in groups.values())
