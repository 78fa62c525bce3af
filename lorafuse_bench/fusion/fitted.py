"""What methods that learn on frozen experts share: one fit, stored in the zoo, made once and only read in use."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypedDict

import torch
from torch import Tensor

from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion.base import FusionMethod, Learned, Merge, Merged, Need, Runtime, option
from lorafuse_bench.layers import StaticUpdate, Update

MAP_RATES = (1e-3, 1e-4, 1e-5)
"""Adam's rates tried for maps and gates, as in the trade-offs paper."""
WEIGHT_RATES = (1e-1, 1e-2, *MAP_RATES)
"""Rates tried for the logits of weights on the simplex, which hardly move at the paper's; ours."""

Parameters = Mapping[str, Tensor]
MakeUpdates = Callable[[Parameters], Mapping[str, Update]]


Scope = Literal["global", "layer", "module"]
"""What shares one vector of weights: all adapted linear maps, those of a transformer block, or none."""


@dataclass(frozen=True)
class LossMatrix:
    """What each expert alone loses on each task: `nats (N, T)` summed over `tokens (T,)` targets, of dev rows.

    `standard_errors (N, T)`: of nats/token, over the rows.
    """

    experts: tuple[str, ...]
    tasks: tuple[str, ...]
    nats: Tensor
    tokens: Tensor
    standard_errors: Tensor

    @property
    def losses(self) -> Tensor:
        """`(N, T)`, nats per token."""
        return self.nats / self.tokens


def expert_alone(pool: ExpertPool, expert: int) -> dict[str, Update]:
    """The updates of one expert of the pool."""
    return {m: StaticUpdate(stack.A[expert], stack.B[expert]) for m, stack in pool.modules.items()}


class Passes(TypedDict, total=False):
    """How much of the fit rows a descent reads: `rows` of each task, `epochs` over them, or `steps`."""

    rows: int
    epochs: float
    steps: int


class Fitting(Protocol):
    """What a method may ask for while it is fitted: the experts on the model, rows, and a training loop.

    Whatever is asked for is kept on its way, so that an interrupted fit goes on to the same result.
    """

    runtime: Runtime
    tasks: tuple[str, ...]
    seed: int

    def descend(
        self,
        start: Parameters,
        updates: MakeUpdates,
        rates: Sequence[float] = MAP_RATES,
        *,
        tasks: Sequence[str] | None = None,
        steps: int | None = None,
        rows: int | None = None,
        epochs: float | None = None,
        part: str = "",
    ) -> dict[str, Tensor]:
        """Parameters after Adam on the loss of the fit rows, from `start`; the rate that is best on dev rows.

        `updates(parameters)` are the model's updates, differentiable. `tasks`: whose rows, all by default; `rows`: of
        each task; `steps`, `epochs`: where they are not the fit's own; `part` tells several descents of one fit apart.
        """

    def distil(self, start: Parameters, updates: MakeUpdates, weights: Tensor) -> dict[str, Tensor]:
        """As `descend`, on KL(teacher ‖ student) per target token; the teacher mixes the experts by `weights (N,)`."""

    def sharpen(
        self, start: Parameters, updates: MakeUpdates, rates: Sequence[float] = MAP_RATES
    ) -> dict[str, Tensor]:
        """As `descend`, on the entropy of the first answer token after the rows' prompts: no target is read.

        The rate is the one of least entropy on dev rows.
        """

    def mix(
        self, start: Parameters, loss: Callable[[Parameters, Tensor], Tensor], part: str = ""
    ) -> dict[str, Tensor]:
        """As `descend` at WEIGHT_RATES, without the model: `loss(parameters, log p (N, tokens))`, summed over targets.

        `log p` is every expert's log-probability of the target tokens, computed once.
        """

    def inputs(self, expert: int, rows: int, see: Callable[[str, Tensor], None]) -> None:
        """`see(module, x (tokens, in))` for what each adapted map sees of the expert's own rows, under it alone.

        Its rows are the first `rows` fit rows of each of its tasks in the suite, prompt and target.
        """

    def gradients(self, expert: int, rows: int, see: Callable[[str, Tensor, Tensor], None]) -> None:
        """`see(module, x (tokens, in), g (tokens, out))` for each of the expert's own rows, under it alone.

        g: gradient of `log p(y)` by the map's output, y drawn from the model's own distributions at the targets.
        """

    def kept(self, part: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What `make` gives, made once: an interrupted fit that goes on finds it again under `part`."""

    def learned(self, method: Fitted) -> dict[str, Tensor]:
        """What another method learns on the same experts, base and rows: the zoo's fit, or one made here."""

    def routers(self, pooling: Literal["last", "mean"]) -> dict[str, Tensor]:
        """MoA's routers of prompts to their tasks' experts, as `moa.router_logits` reads them."""

    def clusters(self, count: int) -> Tensor:
        """`(N,)`: the cluster of each expert; the zoo's, where it has so many of these experts, else made again."""

    def loss(self, updates: Mapping[str, Update], task: str, rows: int) -> float:
        """Nats per token of the task's first `rows` fit rows under these updates."""

    def losses(self) -> LossMatrix:
        """The experts' losses on the dev rows; those that the zoo has of the same experts, base and rows."""


@dataclass(frozen=True)
class Fitted(FusionMethod):
    """A method that `lorafuse fit` learns on top of frozen experts, at least with some of its options."""

    fitted_on: str | None = option(
        None, "suite it was fitted on, where the zoo has a fit on several; by default the only one"
    )

    needs: ClassVar[frozenset[Need]] = frozenset({"fit"})
    at_use: ClassVar[frozenset[str]] = frozenset()
    """Options that do not affect what is learned: one fit serves all their values."""

    def start(self, runtime: Runtime) -> dict[str, Tensor] | None:
        """What `fit` would return had it learned nothing, where that is something: the method in closed form."""
        return None

    @abstractmethod
    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        """The tensors that `updates` will find in the zoo. Where there is chance, it is of `fitting.seed`."""

    @property
    def learns_from_dev(self) -> str | None:
        """Why dev rows affect what is learned, beyond choosing a rate; None if they do not."""
        return None

    def budget(self, experts: int) -> Passes | None:
        """What a fit on so many experts reads.

        Empty: all fit rows for the fit's own epochs; None: it does not say, and has no control of that budget.
        """
        return None

    def made_by(self, zoo: str) -> str | None:
        """The command that learns it into the zoo at `zoo`, where that is not `lorafuse fit`."""
        return None

    def fit_options(self) -> dict[str, Any]:
        """The options that affect what is learned."""
        return {
            key: value
            for key, value in self.options().items()
            if key != "fitted_on" and key not in self.at_use
        }

    def serves(self, fitted: Sequence[str], used: Sequence[str]) -> bool:
        """Whether what was learned on the experts `fitted`, in order, can be used with the experts `used`."""
        return tuple(fitted) == tuple(used)


@dataclass(frozen=True)
class FittedMerge(Fitted, Merge):
    """A merge that follows from what was learned."""

    @abstractmethod
    def merged(self, pool: ExpertPool, parameters: Parameters) -> Merged:
        """The merge under `parameters`, differentiable in them."""

    def fuse(self, pool: ExpertPool) -> Merged:
        raise TypeError(f"{self.name} has no adapter without its fit: ask collapse")

    def collapse(self, pool: ExpertPool, learned: Callable[[FusionMethod], Learned]) -> Merged:
        return self.merged(pool, learned(self).tensors)


@dataclass(frozen=True)
class OneLora(FittedMerge):
    """A merge that is one LoRA of its own, of the experts' modules and the largest of their ranks, scaling 1."""

    def student(self, pool: ExpertPool, seed: int) -> dict[str, Tensor]:
        """What it starts from, `<module>.A` uniform in ±1/√in and `<module>.B` = 0, of every adapted module."""
        generator = torch.Generator().manual_seed(seed)
        found: dict[str, Tensor] = {}
        for module, stack in pool.modules.items():
            out, into = stack.shape
            rank = stack.A.shape[1]
            found[f"{module}.A"] = (torch.rand(rank, into, generator=generator) * 2 - 1) * into**-0.5
            found[f"{module}.B"] = torch.zeros(out, rank)
        return found

    def merged(self, pool: ExpertPool, parameters: Parameters) -> Merged:
        return Merged(
            {module: (parameters[f"{module}.A"], parameters[f"{module}.B"]) for module in pool.modules}
        )


def groups(pool: ExpertPool, scope: Scope) -> dict[str, int]:
    """Which vector of weights each adapted module uses, counted from 0.

    A block is told by the first number in a module's name; modules outside of the blocks have a vector of their own.
    """
    if scope == "global":
        return dict.fromkeys(pool.modules, 0)
    shared = {module: module for module in pool.modules}
    if scope == "layer":
        shared = {m: next((part for part in m.split(".") if part.isdigit()), m) for m in pool.modules}
    position = {group: i for i, group in enumerate(dict.fromkeys(shared.values()))}
    return {module: position[group] for module, group in shared.items()}
