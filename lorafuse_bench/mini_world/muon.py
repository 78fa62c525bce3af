"""Muon in single precision: torch's own computes in bf16, which many processors only emulate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of the Newton-Schulz step, those of torch.optim.Muon."""


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum of a matrix (Jordan et al. 2024, "Muon").

    M ← β·M + (1−β)·G;  W ← (1 − lr·λ)·W − lr · 0.2·√max(out, in) · orthogonal((1−β)·G + β·M)

    The factor gives the update AdamW's usual size. Equals torch.optim.Muon with `adjust_lr_fn="match_rms_adamw"`
    up to its rounding; matrices of one shape are treated in one batch. On a processor without bf16
    instructions torch's took three quarters of a pre-training step.

    params: matrices (out, in). weight_decay: λ. momentum: β.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape].append(matrix)
            for shape, matrices in alike.items():
                directions = orthogonal(torch.stack([self._nesterov(m, group["momentum"]) for m in matrices]))
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for matrix, direction in zip(matrices, directions, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=size)

    def _nesterov(self, matrix: Tensor, momentum: float) -> Tensor:
        """The gradient after a look ahead along its running mean."""
        state, gradient = self.state[matrix], matrix.grad
        assert gradient is not None
        mean = state.setdefault("momentum", torch.zeros_like(gradient))
        mean.lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """(batch, out, in) with every singular value moved to about 1 (within .7 to 1.2), by Newton-Schulz steps.

    X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X from X / ‖X‖_F, on the side where XXᵀ is smaller.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonal(matrices.mT, steps).mT
    a, b, c = QUINTIC
    x = matrices / matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
