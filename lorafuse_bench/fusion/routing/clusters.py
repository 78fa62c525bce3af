"""Clusters of experts whose weights are alike."""

from __future__ import annotations

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool


def clusters_of(pool: ExpertPool, count: int, seed: int = 0) -> Tensor:
    """`(N,)`: the cluster of each expert, numbered in the order of their first expert.

    Every expert's A and s·B flattened into one vector and divided by its length, then KMeans: among vectors of
    length 1 the nearest is the most similar by cosine (trade-offs, section 2; MBC). LorafuseError for more clusters
    than experts.
    """
    if not 1 <= count <= len(pool):
        raise LorafuseError(
            f"{count} clusters of {len(pool)} experts: ask for at least 1 and at most as many as there are experts."
        )
    flat = torch.cat(
        [part.flatten(1) for stack in pool.modules.values() for part in (stack.A, stack.B)], 1
    ).double()
    unit = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12)
    found = KMeans(count, n_init=10, random_state=seed).fit_predict(unit.cpu().numpy()).tolist()
    number = {cluster: i for i, cluster in enumerate(dict.fromkeys(found))}
    return torch.tensor([number[cluster] for cluster in found])
