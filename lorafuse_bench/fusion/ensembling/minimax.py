"""The weights under which the worst task loses least: a linear program over the loss matrix."""

from __future__ import annotations

import torch
from scipy.optimize import linprog
from torch import Tensor

from lorafuse_bench.errors import LorafuseError


def minimax_weights(losses: Tensor) -> Tensor:
    """`λ (N,)` on the simplex that minimises c subject to `Σ_i λ_i M_it ≤ c` for every task, `losses M (N, T)`.

    By HiGHS, in fp64. A linear bound of the mixture's loss, which is convex in λ (trade-offs, appendix B.5). Raises
    LorafuseError where a loss is no finite number, and where every expert loses the same on each task, so that all
    weights are equally good.
    """
    if not bool(losses.isfinite().all()):
        raise LorafuseError(
            "weights=lp: a loss in the matrix is not finite, so the linear program has no solution. Look for the"
            " expert whose loss is not a number."
        )
    experts, tasks = losses.shape
    if experts > 1 and bool((losses == losses[:1]).all()):
        raise LorafuseError(
            "weights=lp: all experts lose the same on every task, so any weights solve the linear program. Use"
            " weights=uniform."
        )
    bounds = torch.cat([losses.double().T, -torch.ones(tasks, 1, dtype=torch.float64)], 1)
    found = linprog(
        c=[0.0] * experts + [1.0],
        A_ub=bounds.numpy(),
        b_ub=[0.0] * tasks,
        A_eq=[[1.0] * experts + [0.0]],
        b_eq=[1.0],
        bounds=[(0, None)] * experts + [(None, None)],
        method="highs",
    )
    if not found.success:
        raise LorafuseError(
            f"weights=lp: the linear program was not solved: {found.message}. Use weights=sgd."
        )
    weights = torch.tensor(found.x[:experts]).clamp(min=0)
    return (weights / weights.sum()).float()
