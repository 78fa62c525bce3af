"""What TIES and DARE are made of: thin each expert's updates out, then join them entry by entry."""

from __future__ import annotations

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.base import Law, Merge, Merged, option
from lorafuse_bench.fusion.merging.maps import each_map

Space = Literal["products", "factors"]
_SAMPLE_STEP = 67
"""No width of a layer is a multiple of it, so a sample meets all columns."""
_MOST_VOTES = 255
"""What a count of one byte holds."""


def keep_largest(tensor: Tensor, density: float, out: Tensor | None = None) -> Tensor:
    """`tensor` with its `⌈density · n⌉` entries of largest magnitude kept and the others 0.

    The count is exact at any density, 0 and 1 included; equal magnitudes are kept in index order. `out` may be
    overwritten, `tensor` itself too: memory in use is written several times faster than new memory.
    """
    kept = kept_entries(tensor.numel(), density)
    if kept == tensor.numel():
        return tensor
    if kept == 0:
        return torch.zeros_like(tensor)
    size = tensor.abs()
    least, surplus = _smallest_kept(size.flatten().cpu().numpy(), kept)
    below = float(np.nextafter(least, 0))
    # Many times faster than a mask.
    trimmed: Tensor = torch.hardshrink(tensor, below, out=size if out is None else out)
    if surplus:
        trimmed[tuple((trimmed.abs() == float(least)).nonzero()[-surplus:].T)] = 0
    return trimmed


def _smallest_kept(values: np.ndarray, kept: int) -> tuple[np.floating, int]:
    """The `kept`-th largest of `values`, exactly, and how many more than `kept` are no smaller.

    A sorted sample, put right by a count of all entries, tells between which two values it lies, so that few
    entries need be ordered; all are where the sample misleads. NumPy's partition is several times faster than torch's
    kthvalue and topk.
    """
    position = len(values) - kept
    sample = np.sort(values[::_SAMPLE_STEP])
    at, last = position * len(sample) // len(values), len(sample) - 1
    off = position - int(np.count_nonzero(values < sample[at]))
    at = min(max(at + off // _SAMPLE_STEP, 0), last)
    margin = math.ceil(2 * len(sample) ** 0.25)  # about three standard deviations of what is off still
    low, high = sample[max(at - margin, 0)], sample[min(at + margin, last)]
    smaller = values < low
    rank = position - int(np.count_nonzero(smaller))
    inside = values <= high
    inside ^= smaller
    between = values[np.flatnonzero(inside)]
    if not 0 <= rank < len(between):
        rank, between = position, values
    ordered = np.partition(between, rank)
    return ordered[rank], int(np.count_nonzero(ordered[:rank] == ordered[rank]))


def kept_entries(n: int, density: float) -> int:
    """`⌈density · n⌉`, where 0.07 · 100 counts as 7 although it is 7.000000000000001 in floating point."""
    return math.ceil(round(density * n, 6))


def drop_and_rescale(tensor: Tensor, density: float, seed: int, expert: str, key: str) -> Tensor:
    """DARE: every entry dropped with probability `1 - density`, the others divided by `density`.

    The draw depends on `(seed, expert, key)` alone: not on the experts' order, other modules, the device
    or torch's global generator.
    """
    if density == 0:
        return torch.zeros_like(tensor)
    return torch.where(uniform_draw(tensor, seed, expert, key) < density, tensor / density, 0)


def uniform_draw(tensor: Tensor, seed: int, expert: str, key: str) -> Tensor:
    """Uniform numbers in [0, 1) of a tensor's shape, that depend on `(seed, expert, key)` alone."""
    return torch.rand(tensor.shape, generator=generator_of(seed, expert, key)).to(tensor.device)


def generator_of(seed: int, expert: str, key: str) -> torch.Generator:
    """A generator for one of an expert's tensors, the same whatever was drawn before."""
    digest = hashlib.sha256(f"{seed}\n{expert}\n{key}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def weighted_sum(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """`Σ λ_i T_i`."""
    result: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        result = weight * tensor if result is None else result.add_(tensor, alpha=weight)
    assert result is not None
    return result


def disjoint_mean(tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
    """TIES' election and disjoint mean of `λ_i T_i`, entry by entry.

    The elected sign γ is that of `T = Σ λ_i T_i`; the result is `Σ λ_i T_i / Σ |λ_i|` over the experts whose
    `λ_i T_i` has that sign, so zeros do not dilute it, and 0 where T is 0 up to rounding. With `S = Σ |λ_i T_i|` its
    numerator is `γ (S + |T|) / 2`. One pass over the experts, so memory does not grow with their number.
    """
    sums: list[Tensor] = []
    numbered = enumerate(zip(tensors, weights, strict=True))
    # Votes of equal weight are counted in bytes, a quarter of the memory that a pass goes through.
    for (weight, _), run in groupby(numbered, lambda each: (each[1][1], each[0] // _MOST_VOTES)):
        votes: list[Tensor] = []
        for _, (tensor, _) in run:
            sums = sums or [torch.zeros_like(tensor) for _ in range(4)]
            votes = votes or [torch.zeros_like(tensor, dtype=torch.uint8) for _ in range(2)]
            for count, vote in zip(votes, _signs(tensor), strict=True):
                count.add_(vote.view(torch.uint8))  # adding truth values takes twice as long
            sums[0].add_(tensor, alpha=weight)
            sums[1].add_(tensor.abs(), alpha=abs(weight))
        for shares, count in zip(sums[2:], votes if weight > 0 else votes[::-1], strict=True):
            shares.add_(count, alpha=abs(weight))
    total, size, up, down = sums
    numerator = (total + total.sign() * size) / 2
    elected = total.abs() > torch.finfo(total.dtype).eps * size
    return torch.where(elected, numerator / torch.where(total > 0, up, down), 0)


def _signs(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """Where it is positive, and where negative; NumPy compares several times faster than torch."""
    if tensor.device.type != "cpu":
        return tensor > 0, tensor < 0
    values = tensor.numpy()
    return torch.from_numpy(values > 0), torch.from_numpy(values < 0)


def products(stack: ModuleStack) -> Iterator[Tensor]:
    """The dense updates `s_i B_i A_i (out, in)`, each in the memory of the one before; zeros from absent experts."""
    update = stack.A.new_empty(stack.shape)
    return (torch.mm(b, a, out=update) for a, b in zip(stack.A, stack.B, strict=True))


class Weighted(Merge):
    """A merge whose λ_i can be given by an option such as `weights=0.5/0.3/0.2`, in the order of the experts."""

    weights: str | None

    def default_weight(self, experts: int) -> float:
        """λ_i where no weights are given."""
        return 1.0

    def expert_weights(self, pool: ExpertPool) -> list[float]:
        """The λ_i, one per expert; LorafuseError unless the option holds as many finite numbers."""
        if self.weights is None:
            return [self.default_weight(len(pool))] * len(pool)
        try:
            values = [float(part) for part in self.weights.split("/")]
        except ValueError:
            values = []
        if len(values) != len(pool) or not all(map(math.isfinite, values)):
            raise LorafuseError(
                f"method '{self.name}': weights={self.weights!r} must be {len(pool)} numbers separated by '/',"
                f" for {', '.join(pool.names)}."
            )
        return values

    def check(self, pool: ExpertPool) -> None:
        super().check(pool)
        self.expert_weights(pool)


def check_density(method: str, density: float) -> None:
    """LorafuseError unless 0 <= density <= 1."""
    if not 0 <= density <= 1:
        raise LorafuseError(f"method '{method}': density={density} must lie between 0 and 1.")


@dataclass(frozen=True)
class Elementwise(Weighted):
    """A merge that thins every expert's updates out and joins what is left, entry by entry.

    One module at a time, and of its dense updates one expert's at a time.
    """

    density: float
    weights: str | None = option(
        None, "λ_i in the order of the experts, such as 0.5/0.3/0.2; equal by default"
    )
    scale: float = option(1.0, "multiplies the merged update (the λ of task arithmetic)")
    space: Space = option(
        "products",
        "merge the updates B A (products, as the papers do) or A and B apart (factors, as PEFT does)",
    )

    thinned: ClassVar[str]
    """What thinning does to an expert alone."""
    rank_matters: ClassVar[str]
    """How the padding of unequal ranks tells in factor space."""

    def __post_init__(self) -> None:
        check_density(self.name, self.density)

    @property
    def merge_before(self) -> bool:
        return self.space == "factors"

    @property
    def laws_broken(self) -> dict[Law, str]:
        broken = super().laws_broken
        if self.density < 1:
            broken |= {"one expert is itself": self.thinned, "copies of one expert are it": self.thinned}
            if self.space == "factors":
                broken["unequal ranks"] = self.rank_matters
        return broken

    @abstractmethod
    def thin(self, tensor: Tensor, expert: str, key: str) -> Tensor:
        """An expert's `tensor`, which may be overwritten, with fewer entries; `key` says which of its tensors it is."""

    @abstractmethod
    def join(self, tensors: Iterable[Tensor], weights: Sequence[float]) -> Tensor:
        """One tensor of the experts' thinned ones, in the pool's order, with weights λ_i."""

    def fuse(self, pool: ExpertPool) -> Merged:
        given = pool.names, self.expert_weights(pool)
        if self.space == "factors":
            return Merged(each_map(pool, partial(self._factors, *given)))
        return Merged(dense=each_map(pool, partial(self._dense, *given)))

    def _dense(
        self, names: Sequence[str], weights: Sequence[float], module: str, stack: ModuleStack
    ) -> Tensor:
        updates = zip(products(stack), names, strict=True)
        thinned = (self.thin(update, name, module) for update, name in updates)
        return self.scale * self.join(thinned, weights)

    def _factors(
        self, names: Sequence[str], weights: Sequence[float], module: str, stack: ModuleStack
    ) -> tuple[Tensor, Tensor]:
        """A and B merged separately. Padding is left out of the thinning, since its zeros are not entries to keep."""
        experts = list(zip(names, stack.A.clone(), stack.B.clone(), stack.ranks, strict=True))
        pad = stack.A.shape[1]
        a = (F.pad(self.thin(a[:r], name, f"{module}.A"), (0, 0, 0, pad - r)) for name, a, _, r in experts)
        b = (F.pad(self.thin(b[:, :r], name, f"{module}.B"), (0, pad - r)) for name, _, b, r in experts)
        return self.join(a, weights), self.scale * self.join(b, weights)


@dataclass(frozen=True)
class Dropping(Elementwise):
    """An elementwise merge that thins out as DARE does: at random, the rest rescaled."""

    density: float = option(0.5, "probability that an entry is kept (the paper searches .1 to .9)")
    seed: int = option(0, "seed of the masks")

    thinned = "entries are dropped at random"
    rank_matters = "the draw depends on the factors' shapes"

    def thin(self, tensor: Tensor, expert: str, key: str) -> Tensor:
        return drop_and_rescale(tensor, self.density, self.seed, expert, key)
