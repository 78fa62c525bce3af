"""RegMean: the update whose outputs are nearest to every expert's on that expert's own inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import Merged, Runtime, option
from lorafuse_bench.fusion.fitted import Fitting, Parameters
from lorafuse_bench.fusion.merging.own_rows import OwnRowsMerge
from lorafuse_bench.fusion.papers import REGMEAN
from lorafuse_bench.fusion.registry import register


@register
@dataclass(frozen=True)
class Regmean(OwnRowsMerge):
    """Per linear map the least-squares merge of the experts, in closed form.

    `min_W Σ_i ‖W X_i − W_i X_i‖²` has the solution `ΔW = Σ_i s_i B_i A_i G_i (Σ_j G_j)⁻¹`, as the base's weights drop
    out; with `G_i = (1/n) X_i X_iᵀ (in, in)`, `X_i (in, n)` what the map sees of n tokens of expert i's own rows,
    under expert i. It stays one LoRA: `A = [A_1 G_1 G⁻¹; ...] (Σr, in)`, `B = [s_1 B_1, ...] (out, Σr)`, G their sum.
    Off its diagonal `G_i` is multiplied by `off_diagonal`, the paper's α. An input that is always 0 gets no update; an
    expert that does not adapt a map is a zero update there. Source: Jin et al. 2023 (RegMean); its authors' code gives
    the same to 2e-8, whose shrinkage is in fp32. Needs a fit. Cost: one LoRA of rank `Σ r_i`; a fit keeps a matrix
    `(in, in)` per map and expert.
    """

    off_diagonal: float = option(
        0.9, "what Gram matrices are multiplied by off their diagonal (the paper's α)"
    )

    name = "regmean"
    paper = REGMEAN
    gathered = "Gram matrices"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.off_diagonal <= 1:
            raise LorafuseError("method 'regmean': off_diagonal must lie between 0 and 1.")

    def start(self, runtime: Runtime) -> dict[str, Tensor]:
        """With equal Gram matrices: the `A_i/N (N, r, in)` of every map."""
        return {module: stack.A / len(runtime.pool) for module, stack in runtime.pool.modules.items()}

    def solved(self, pool: ExpertPool, found: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {
            module: projected(stack.A, torch.stack([own[module] for own in found]))
            for module, stack in pool.modules.items()
        }

    def merged(self, pool: ExpertPool, parameters: Parameters) -> Merged:
        return Merged(
            {
                module: (parameters[module].to(stack.A).flatten(0, 1), stack.B.transpose(0, 1).flatten(1))
                for module, stack in pool.modules.items()
            }
        )

    def gather(self, fitting: Fitting, expert: int) -> dict[str, Tensor]:
        """`G_i` of every map, in fp64."""
        pool = fitting.runtime.pool
        sums = {m: torch.zeros(stack.shape[1], stack.shape[1]).double() for m, stack in pool.modules.items()}
        tokens = dict.fromkeys(sums, 0)

        def see(module: str, x: Tensor) -> None:
            x = x.double().cpu()
            sums[module] += x.T @ x
            tokens[module] += len(x)

        fitting.inputs(expert, self.rows, see)
        return {module: self._shrunk(total / max(1, tokens[module])) for module, total in sums.items()}

    def _shrunk(self, gram: Tensor) -> Tensor:
        return self.off_diagonal * gram + (1 - self.off_diagonal) * torch.diag(gram.diagonal())


def projected(a: Tensor, grams: Tensor) -> Tensor:
    """`A_i G_i (Σ_j G_j)⁺ (N, r, in)` of `a (N, r, in)` and `grams (N, in, in)`, in the type of a."""
    inverse = torch.linalg.pinv(grams.sum(0), hermitian=True)
    result: Tensor = (a.to(grams) @ grams @ inverse).to(a)
    return result
