"""Two controls of a method: the same on experts that know nothing, and one LoRA that learns what its fit read."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.fusion.base import CONTROL, FusionMethod, option, static_updates
from lorafuse_bench.fusion.fitted import Fitted, Fitting, OneLora
from lorafuse_bench.fusion.merging.elementwise import generator_of

Control = Literal["random", "budget"]


def controlled(method: FusionMethod, control: str) -> FusionMethod:
    """The control of a method: `method` with one option more, `control`, in its label.

    `random`: the same method, fit included, on experts of random factors with each map's own norms. `budget`: one
    LoRA trained on exactly the rows and passes of the method's fit. LorafuseError for a method that has no such
    control. After "The Appeal and Reality of Recycling LoRAs with Adaptive Merging", arXiv 2602.12323.
    """
    if not method.fuses_experts:
        raise LorafuseError(f"method '{method.name}' fuses no experts: it has no control.")
    if control == "random":
        return _random(type(method))(**method.options(), control="random")  # type: ignore[call-arg]
    if control != "budget":
        raise LorafuseError(f"control={control!r} is neither random nor budget.")
    if not isinstance(method, Fitted) or "fit" not in method.needed or method.budget(1) is None:
        raise LorafuseError(
            f"method '{method.label()}' has no fit whose rows and passes could be given to a LoRA."
        )
    return _budget(type(method))(**method.options(), control="budget")  # type: ignore[call-arg]


def with_controls(methods: Sequence[FusionMethod], control: str) -> list[FusionMethod]:
    """Each method, and after it its control where it has one; LorafuseError where none has."""
    found: list[FusionMethod] = []
    for method in methods:
        found.append(method)
        if method.family not in ("floor", "reference"):
            with suppress(LorafuseError):
                found.append(controlled(method, control))
    if len(found) == len(methods):
        raise LorafuseError(
            f"--control {control}: none of these methods has such a control. random is of methods that fuse experts,"
            " budget of those with a fit."
        )
    return found


@cache
def _random(cls: type[FusionMethod]) -> type[FusionMethod]:
    def given(self: FusionMethod, pool: ExpertPool) -> ExpertPool:
        return randomised(cls.given(self, pool))

    return _made(cls, "Random", (cls,), [], {"given": given})


@cache
def _budget(cls: type[Fitted]) -> type[FusionMethod]:
    hints = typing.get_type_hints(cls, include_extras=True)
    own = [
        (f.name, hints[f.name], dataclasses.field(default=f.default, metadata=f.metadata))
        for f in dataclasses.fields(cls)
        if f.name != "fitted_on"
    ]
    space = {"of": cls, "name": cls.name, "paper": cls.paper, "version": cls.version, "at_use": cls.at_use}
    return _made(cls, "Budget", (Budget,), own, space)


def _made(
    cls: type[FusionMethod], prefix: str, parents: tuple[type, ...], own: list[Any], space: Mapping[str, Any]
) -> type[FusionMethod]:
    control = (CONTROL, Control | None, option(None, "random or budget: a control in place of the method"))
    made: type[FusionMethod] = dataclasses.make_dataclass(
        prefix + cls.__name__,
        [*own, control],
        bases=parents,
        frozen=True,
        namespace={**space, "__reduce__": lambda self: (_unpickled, (cls, self.options()))},
    )
    made.__module__, made.__doc__ = cls.__module__, cls.__doc__
    return made


def _unpickled(cls: type[FusionMethod], options: Mapping[str, Any]) -> FusionMethod:
    """A control in another process, which makes its class again."""
    own = {key: value for key, value in options.items() if key != CONTROL}
    return controlled(cls(**own), options[CONTROL])


def randomised(pool: ExpertPool) -> ExpertPool:
    """The pool's experts with Gaussian factors: of each map A's norm and that of the update B A are kept.

    The draw depends on the expert's name and the map alone.
    """
    return ExpertPool([_randomised(expert) for expert in pool.experts])


def _randomised(expert: LoraExpert) -> LoraExpert:
    factors = {}
    for module, (a, b) in expert.factors.items():
        generator = generator_of(0, expert.name, module)
        a_new, b_new = (torch.randn(each.shape, generator=generator).to(each) for each in (a, b))
        a_new *= a.norm() / a_new.norm()
        b_new *= product_norm(a, b) / product_norm(a_new, b_new)
        factors[module] = (a_new, b_new)
    return replace(expert, factors=factors)


def product_norm(a: Tensor, b: Tensor) -> Tensor:
    """`‖B A‖` of `A (r, in)`, `B (out, r)`, without the product."""
    inner, outer = a.double() @ a.double().T, b.double().T @ b.double()
    return (inner * outer).sum().clamp(min=0).sqrt().to(a)


@dataclass(frozen=True)
class Budget(OneLora):
    """One LoRA of the experts' modules and largest rank, trained on what another method's fit read.

    Learned by Adam on the tasks' loss, from A uniform in ±1/√in and B = 0, on the same rows, as many times, in batches
    of the same size; the rate is chosen as the fit's is. Cost: one LoRA.
    """

    of: typing.ClassVar[type[Fitted]]
    """The class of the method whose budget it has."""

    def fit(self, fitting: Fitting) -> dict[str, Tensor]:
        pool = fitting.runtime.pool
        options = {key: value for key, value in self.options().items() if key != CONTROL}
        budget = self.of(**options).budget(len(pool))
        assert budget is not None
        return fitting.descend(
            self.student(pool, fitting.seed), lambda found: static_updates(self.merged(pool, found)), **budget
        )
