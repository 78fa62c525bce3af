"""TSV-Merge: the experts' singular vectors, made orthogonal to each other."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import Law, Merge, Merged, option
from lorafuse_bench.fusion.merging.maps import each_map
from lorafuse_bench.fusion.merging.spectra import nearest_orthogonal
from lorafuse_bench.fusion.papers import TSV
from lorafuse_bench.fusion.registry import register
from lorafuse_bench.fusion.routing.gates import expert_svd


@register
@dataclass(frozen=True)
class Tsv(Merge):
    """The sum of the experts' leading singular triplets after their vectors were made orthogonal.

    `s_i B_i A_i = U_i S_i V_iᵀ`, of which the first k triplets stay; `U = [U_1, ..., U_N] (out, Nk)`, V alike; `ΔW =
    scale · U⊥ diag(S_1, ..., S_N) V⊥ᵀ`, with `X⊥ = P Qᵀ` of the SVD `X = P D Qᵀ`, the nearest matrix with orthonormal
    columns. `k = ⌊min(out, in) / N⌋`, at least 1, so that all fit beside each other; a LoRA of lower rank keeps all of
    its triplets. Of experts whose vectors coincide, `X⊥` shares the one direction out. Source: Gargiulo et al. 2025
    (TSV-Merge); where k is the experts' rank it is the authors' code to 3e-15, which otherwise also moves apart the
    arbitrary vectors of the singular values 0 that a LoRA has. Cost: one LoRA of rank `Σ min(k, r_i)`.
    """

    rank: int | None = option(None, "triplets k kept of each expert; by default as many as fit")
    scale: float = option(1.0, "multiplies the merged update (the paper's α)")

    name = "tsv"
    paper = TSV

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise LorafuseError(f"method 'tsv': rank={self.rank} must be at least 1.")

    @property
    def laws_broken(self) -> dict[Law, str]:
        if self.rank is None and self.scale == 1:
            return {}
        changed = "its rank may exceed the one asked for" if self.rank else "it is multiplied by scale"
        return {"one expert is itself": changed, "copies of one expert are it": changed}

    def fuse(self, pool: ExpertPool) -> Merged:
        return Merged(each_map(pool, self._merge))

    def _merge(self, module: str, stack: ModuleStack) -> tuple[Tensor, Tensor]:
        u, s, vt = expert_svd(stack)
        k = self.rank or max(1, min(stack.shape) // len(s))
        left = nearest_orthogonal(u[:, :, :k].double().transpose(0, 1).flatten(1))
        right = nearest_orthogonal(vt[:, :k].double().flatten(0, 1).T)
        b = self.scale * left * s[:, :k].double().flatten()
        return right.T.to(stack.A.dtype), b.to(stack.B.dtype)
