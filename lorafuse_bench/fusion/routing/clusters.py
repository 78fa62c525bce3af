"""Clusters of experts with similar weights, for routers over clusters."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.zoo.cluster import coordinates, gram, kmeans


def clusters_of(pool: ExpertPool, count: int, seed: int = 0) -> Tensor:
    """`(N,)`: the cluster of each expert, numbered in the order of their first expert.

    The same clustering as `lorafuse zoo cluster` makes (zoo/cluster.py), into fewer clusters where fewer experts
    differ. LorafuseError for more clusters than experts.
    """
    if not 1 <= count <= len(pool):
        raise LorafuseError(
            f"{count} clusters of {len(pool)} experts: ask for at least 1 and at most as many as there are experts."
        )
    points = coordinates(gram(pool))
    differ = len(np.unique(points.round(9), axis=0))
    found = kmeans(points, min(count, differ), seed)
    number = {cluster: i for i, cluster in enumerate(dict.fromkeys(found))}
    return torch.tensor([number[cluster] for cluster in found])
