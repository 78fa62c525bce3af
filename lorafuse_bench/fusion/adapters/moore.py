"""MoORE: the base's singular directions as orthogonal rank-one experts, weighted by task and token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lorafuse_bench.fusion.adapters.trained import (
    Place,
    TrainedAdapter,
    TrainedUpdate,
    kaiming_,
    parameter,
)
from lorafuse_bench.fusion.base import option
from lorafuse_bench.fusion.papers import MOORE
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.layers import linear_weight


class MooreUpdate(TrainedUpdate):
    """`y = U [(σ + g) ⊙ Vᵀ H x] + b` with `W = U diag(σ) Vᵀ`; `U (out, D)`, `Vh (D, in)` fixed.

    Trained: `T (K, D_t)`, `P (D, D_t)`, `Q (D, D_s)`, `Gamma (D_s, in)`, `R (L, in)`; parts of size 0 are absent.
    """

    U: Tensor
    Vh: Tensor

    def __init__(self, base: nn.Module, place: Place, sizes: tuple[int, int, int], relu_gate: bool) -> None:
        super().__init__()
        weight = linear_weight(base).detach()
        U, sigma, Vh = decomposed(weight, place.derived)
        self.register_buffer("U", U, persistent=False)
        self.register_buffer("Vh", Vh, persistent=False)
        # Never in bf16, where a small g would vanish beside σ; so no buffer, which `to` would convert.
        self.sigma = sigma
        self.by_task: Tensor | None = None
        self.place, self.relu_gate, self.folded = place, relu_gate, False
        experts, into = len(sigma), weight.shape[1]
        d_t, d_s, reflections = sizes
        if d_t:
            self.T, self.P = parameter(base, place.tasks, d_t), parameter(base, experts, d_t)
        if d_s:
            self.Gamma, self.Q = parameter(base, d_s, into), parameter(base, experts, d_s)
        if reflections:
            self.R = parameter(base, reflections, into)

    @torch.no_grad()
    def reset(self, generator: torch.Generator) -> None:
        if hasattr(self, "T"):
            self.T.copy_(torch.randn(self.T.shape, generator=generator))
            self.P.zero_()
        if hasattr(self, "Gamma"):
            kaiming_(self.Gamma, generator)
            self.Q.zero_()
        if hasattr(self, "R"):
            # H does not see the vectors' length, but a step of Adam turns a short one further: ±1/sqrt(L/2).
            vectors = torch.empty(self.R.shape[1], len(self.R) // 2)
            kaiming_(vectors, generator)
            self.R.copy_(vectors.T.repeat_interleave(2, 0))  # equal reflections undo each other

    def gates(self, x: Tensor) -> Tensor:
        """`g = P t_k + Q Γ x` (eq 4), `(rows or 1, tokens or 1, D)`."""
        g = torch.zeros_like(self.sigma, device=x.device)[None, None]
        if self.by_task is not None:
            g = self.place.of_task(self.by_task.to(x.device), x)[:, None]
        elif hasattr(self, "T"):
            g = F.linear(self.place.of_task(self.T, x), self.P)[:, None]
        if hasattr(self, "Gamma"):
            g = g + F.linear(F.linear(x, self.Gamma), self.Q)
        return g

    def output(self, base: nn.Module, x: Tensor) -> Tensor:
        weights = self.sigma.to(x.device) + self.gates(x)
        if self.relu_gate:
            weights = weights.relu()
        mixed = F.linear(self.turned(x), self.Vh) * weights
        bias = base.bias
        assert bias is None or isinstance(bias, Tensor)
        return F.linear(mixed.to(x.dtype), self.U, bias)

    def turned(self, x: Tensor) -> Tensor:
        """`H x` for `x (..., in)`, `H = H_1 ... H_L`, `H_l = I - 2 u_l u_lᵀ` (eq 5 with the factor 2)."""
        if self.folded or not hasattr(self, "R"):
            return x
        with torch.autocast(x.device.type, enabled=False):  # in bf16 H would not be orthogonal
            unit, core = self._reflections()
            wide = x.to(unit.dtype)
            return (wide - wide @ unit.T @ core.T @ unit).to(x.dtype)

    def _reflections(self) -> tuple[Tensor, Tensor]:
        """`u (L, in)`, `C (L, L)` with `H = I - uᵀ C u`, so that two products apply all reflections.

        `C⁻¹ = striu(u uᵀ) + I/2` (Joffrain et al. 2006, Accumulating Householder Transformations).
        """
        unit = F.normalize(self.R, dim=1)
        one = torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
        return unit, torch.linalg.solve_triangular((unit @ unit.T).triu(1) + one / 2, one, upper=True)

    def derived(self) -> dict[str, Tensor]:
        return {"U": self.U, "sigma": self.sigma, "Vh": self.Vh}

    @torch.no_grad()
    def fold(self) -> None:
        """`V'ᵀ = Vᵀ H`, and `P t_k` of every task."""
        if hasattr(self, "R"):
            unit, core = self._reflections()
            wide = self.Vh.to(unit.dtype)
            self.Vh = (wide - wide @ unit.T @ core @ unit).to(self.Vh.dtype)
        if hasattr(self, "T"):
            self.by_task = (self.T @ self.P.T).to(self.sigma.dtype)
        self.folded = True


def decomposed(weight: Tensor, saved: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """`U (out, D)`, `σ (D,)` and `Vᵀ (D, in)` of `weight (out, in)`: the saved ones if no narrower, else its SVD."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    if "U" in saved and torch.promote_types(saved["U"].dtype, weight.dtype) == saved["U"].dtype:
        # What was trained is tied to these vectors. Those of a W that is rounded further are turned.
        U, Vh = (saved[name].to(weight.device, weight.dtype) for name in ("U", "Vh"))
        return U, saved["sigma"].to(weight.device, wide), Vh
    # In fp64, whatever the type of W: what is trained is tied to vectors that rounding turns where singular values are
    # close, and must mean the same on a base loaded in another type. fp32 would also be 2e-6 of W away from it, and
    # saves half of the time, which a base takes once.
    U, sigma, Vh = torch.linalg.svd(weight.double(), full_matrices=False)
    return U.to(weight.dtype).contiguous(), sigma.to(wide), Vh.to(weight.dtype).contiguous()


@register
@dataclass(frozen=True)
class Moore(TrainedAdapter):
    """MoORE: `y = U [(σ + P t_k + Q Γ x) ⊙ Vᵀ H x] + b`, where `W = U diag(σ) Vᵀ` is the base's map.

    The experts are the D rank-one maps `u_d v_dᵀ H`, orthogonal to each other, and their outputs span what
    W's do. Their weights come from the task, `t_k (D_t,)`, and from each token's x, `Γ (D_s, in)`; H is a
    product of L Householder reflections. Starts as the base: `P = Q = 0`, Γ uniform in ±1/sqrt(in),
    T standard normal, reflections in equal pairs whose vectors are uniform in ±1/sqrt(L/2), as in the authors'
    program. Source: Yuan et al. 2025, eq 3-7; we add the factor 2 that a reflection needs and eq 5 lacks. A task
    that was not trained on gets the mean of the task embeddings (section 4.3). The authors'
    program clips `σ + g` at 0 (`relu_gate=true`) and drops the bias, which we keep.
    Ablations: `d_t=0`, `d_s=0`, `reflections=0` leave out the task, the token or H.
    Parameters per map: `K D_t + D (D_t + D_s) + in (D_s + L)`, `D = min(in, out)`. Cost: `D (in + out)` in
    place of `in out` products, and `D_s (in + D)`; U and V lie in memory beside W.
    """

    d_t: int = option(128, "size of the task embeddings D_t; 0 for no task-level routing")
    d_s: int = option(64, "rank of the token-level routing D_s; 0 for none")
    reflections: int = option(8, "number of Householder reflections L, even; 0 for H = I")
    relu_gate: bool = option(False, "clip σ + g at 0, as the authors' program does")

    name = "moore"
    version = "2"  # 1 began with shorter reflection vectors
    needs = frozenset({"adapter", "task_id"})
    paper = f"{MOORE}, eq 3-7"

    def __post_init__(self) -> None:
        sizes = (self.d_t, self.d_s, self.reflections)
        if min(sizes) < 0 or max(sizes) == 0 or self.reflections % 2:
            raise ValueError("d_t, d_s and reflections must be 0 or more, not all 0, and reflections even.")

    @property
    def tells_tasks_apart(self) -> bool:
        return self.d_t > 0

    def update(self, base: nn.Module, place: Place) -> TrainedUpdate:
        return MooreUpdate(base, place, (self.d_t, self.d_s, self.reflections), self.relu_gate)
