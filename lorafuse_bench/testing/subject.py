"""A method under check, fused into a toy base: its distributions, its updates, what it asks for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from unittest import SkipTest

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, LoraExpert
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, initialise, tensors_of
from lorafuse_bench.fusion.base import (
    AdapterArtefact,
    Ensembling,
    FusionMethod,
    Learned,
    Need,
    Prompts,
)
from lorafuse_bench.fusion.fitted import Fitted, Fitting, MakeUpdates, Parameters
from lorafuse_bench.layers import FusedModule, Selection, Update
from lorafuse_bench.testing.toys import TASKS, pool_of, toy_base, toy_experts
from lorafuse_bench.zoo.manifest import BaseEntry, Manifest, Zoo


class DoesNotApplyError(SkipTest):
    """A check that says nothing of this method, and why."""


class ToyModel(FusedModel):
    """A toy base under a method; what is learned is random, and `asked` keeps what the method asked for."""

    untrained = False
    """Whether adapters are left as they start."""

    def __init__(self, pool: ExpertPool, architecture: str, dtype: torch.dtype) -> None:
        super().__init__(toy_base(architecture, dtype), _zoo(), pool)
        self.asked: set[Need] = set()

    def require_fit(self, method: FusionMethod) -> None:
        """Nothing: `asked` is what the method itself asks for."""

    def artefact(self, method: FusionMethod) -> Learned:
        self.asked.add("fit")
        if method.name in LEARNED:
            return LEARNED[method.name](self)
        if not isinstance(method, Fitted):
            raise DoesNotApplyError("it needs a fit and is no Fitted that the kit could make")
        learned = ToyFitting(self).learned(method)
        return Learned("toy", learned, {}, {}, self.pool.names, tasks=TASKS)

    def adapter(self, method: FusionMethod) -> AdapterArtefact:
        self.asked.add("adapter")
        if not isinstance(method, TrainedAdapter):
            raise DoesNotApplyError(
                "it needs a trained adapter and is no TrainedAdapter that the kit could make"
            )
        updates = method.attach(self.base, len(TASKS), Selection())
        initialise(updates, 0)
        tensors = tensors_of(updates)
        if not self.untrained:
            generator = torch.Generator().manual_seed(0)
            for tensor in tensors.values():
                tensor += torch.randn(tensor.shape, generator=generator) * 0.3 * tensor.shape[-1] ** -0.5
        return AdapterArtefact("toy", TASKS, lambda: tensors)


class ToyFitting:
    """In place of a fit's rows and training: what would be descended on is moved at random instead."""

    def __init__(self, runtime: ToyModel) -> None:
        self.runtime, self.tasks, self.seed = runtime, TASKS, 0

    def descend(self, start: Parameters, *_: Any, part: str = "", **__: Any) -> dict[str, Tensor]:
        """`start`, every number moved; how hangs on `part` alone."""
        generator = torch.Generator().manual_seed(sum(part.encode()))
        return {key: value + torch.randn(value.shape, generator=generator) for key, value in start.items()}

    def learned(self, method: Fitted) -> dict[str, Tensor]:
        """What a method starts from in closed form, or learns of the toys."""
        start = method.start(self.runtime)
        return method.fit(cast(Fitting, self)) if start is None else start

    def sharpen(self, start: Parameters, *_: Any, **__: Any) -> dict[str, Tensor]:
        """As `descend`."""
        return self.descend(start)

    def mix(self, start: Parameters, *_: Any, **__: Any) -> dict[str, Tensor]:
        """`start` as it is, whatever the experts' losses."""
        return dict(start)

    @torch.enable_grad()
    def distil(self, start: Parameters, updates: MakeUpdates, weights: Tensor) -> dict[str, Tensor]:
        """`start` after two steps towards what the weighted experts add at every map, for one random input."""
        found = {key: value.clone() for key, value in start.items()}
        for _ in range(2):
            found = {key: value.detach().requires_grad_() for key, value in found.items()}
            loss = self._distance(updates(found), weights)
            steps = torch.autograd.grad(loss, list(found.values()))
            found = {key: value - step for (key, value), step in zip(found.items(), steps, strict=True)}
        return {key: value.detach() for key, value in found.items()}

    def _distance(self, updates: Mapping[str, Update], weights: Tensor) -> Tensor:
        total = torch.zeros(())
        for name, update in updates.items():
            base, stack = (
                copy.deepcopy(self.runtime.base.modules[name]).float(),
                self.runtime.pool.modules[name],
            )
            x = inputs(base)
            teacher = torch.einsum("n,nor,nri,bti->bto", weights, stack.B, stack.A, x)
            total = total + (update.output(base, x) - base(x) - teacher).square().mean()
        return total

    def __getattr__(self, name: str) -> Any:
        raise DoesNotApplyError(f"its fit asks for {name}, which the toys do not give")


def _zoo() -> Zoo:
    manifest = Manifest(
        schema="lorafuse.zoo/1",
        name="toy",
        seed=0,
        base=BaseEntry(path="base", sha256="0" * 64),
        init="shared",
        data="hub",
    )
    return Zoo(Path("toy"), manifest)


def moa_router(model: ToyModel) -> Learned:
    """Random MLPs, steep enough that prompts go to different experts."""
    generator = torch.Generator().manual_seed(0)
    blocks, width, experts = model.base.blocks, model.base.config.hidden_size, len(TASKS)
    tensors = {
        "w1": torch.randn(blocks, 16, width, generator=generator) * 4,
        "b1": torch.zeros(blocks, 16),
        "w2": torch.randn(blocks, experts, 16, generator=generator),
        "b2": torch.zeros(blocks, experts),
    }
    return Learned("toy", tensors, {}, {"informative_blocks": list(range(blocks))}, TASKS)


def lorahub_weights(model: ToyModel) -> Learned:
    """Weights of each task, drawn by the experts' names, so that their order makes no difference."""
    drawn = [
        torch.rand(len(TASKS), generator=torch.Generator().manual_seed(sum(n.encode())))
        for n in model.pool.names
    ]
    return Learned("toy", {"weights": torch.stack(drawn, 1)}, {}, {}, model.pool.names, tasks=TASKS)


LEARNED: dict[str, Callable[[ToyModel], Learned]] = {"moa": moa_router, "lorahub": lorahub_weights}
"""In place of fits that the toys cannot make, or not in moments, by the method's name."""


@dataclass(frozen=True)
class Subject:
    """What checks ask of a method. Every answer comes from a base and a pool of its own."""

    method: FusionMethod

    @contextmanager
    def fused(
        self,
        experts: Sequence[LoraExpert] | None = None,
        architecture: str = "qwen2",
        dtype: torch.dtype = torch.float32,
        untrained: bool = False,
    ) -> Iterator[ToyModel]:
        """The method at work on experts; DoesNotApplyError where it refuses them, or the base."""
        pool = pool_of(toy_experts(architecture) if experts is None else experts)
        model = ToyModel(pool, architecture, dtype)
        model.untrained = untrained
        try:
            model.use(self.method)
        except LorafuseError as error:
            raise DoesNotApplyError(f"it refuses this: {error}") from error
        yield model

    def distribution(
        self,
        experts: Sequence[LoraExpert] | None = None,
        architecture: str = "qwen2",
        dtype: torch.dtype = torch.float32,
        untrained: bool = False,
    ) -> Tensor:
        """Log-probabilities `(rows, tokens, V)` of what follows each token of the toy prompts, one row a task."""
        with self.fused(experts, architecture, dtype, untrained) as model:
            return distribution(model, *prompts())

    def outputs(self, experts: Sequence[LoraExpert] | None = None, **where: Any) -> dict[str, Tensor]:
        """What each update adds `(rows, tokens, out)` to its map's output, for one random input.

        Where rows have experts of their own, row i has expert i. DoesNotApplyError for ensembles, which combine
        distributions.
        """
        if isinstance(self.method, Ensembling):
            raise DoesNotApplyError("it combines distributions, not updates")
        with self.fused(experts, **where) as model, torch.no_grad():
            choose_in_turn(model)
            return {name: added(layer) for name, layer in layers(model).items()}


def prompts(rows: int = 3, tokens: int = 8) -> tuple[Tensor, tuple[str, ...]]:
    """Token ids `(rows, tokens)` without padding, and each row's task."""
    ids = torch.randint(0, 256, (rows, tokens), generator=torch.Generator().manual_seed(5))
    return ids, tuple(TASKS[i % len(TASKS)] for i in range(rows))


def batch(rows: Sequence[Sequence[int]], tasks: Sequence[str], padding: int = 0) -> Prompts:
    """Prompts of several lengths as a method's `select` gets them."""
    lengths = torch.tensor([len(row) for row in rows])
    ids = pad_sequence([torch.tensor(row) for row in rows], True, padding)
    return Prompts(ids, lengths, tuple(tasks))


def select(model: FusedModel, ids: Tensor, tasks: Sequence[str]) -> Tensor | None:
    """The method's choice for unpadded rows."""
    return model.select(batch(ids.tolist(), tasks))


def distribution(model: FusedModel, ids: Tensor, tasks: Sequence[str]) -> Tensor:
    """Log-probabilities `(rows, tokens, V)` in fp32, each row routed by all of its tokens."""
    return distribution_under(model, ids, select(model, ids, tasks))


@torch.no_grad()
def distribution_under(model: FusedModel, ids: Tensor, choice: Tensor | None) -> Tensor:
    """The same with the rows' experts `choice (rows, blocks)` given; of whatever family the method is."""
    method = model.method
    if not isinstance(method, Ensembling):
        model.selection.set(choice)
        return model.model(input_ids=ids).logits.float().log_softmax(-1)
    members, total = method.members(model), None
    for i, weight in enumerate(members.weights):
        model.selection.set(members.index[i].repeat(len(ids), 1))
        logits = model.model(input_ids=ids).logits.float()
        total = method.add(total, logits[None], weight[None])
    assert total is not None
    return method.log_probabilities(total)


def layers(model: FusedModel) -> dict[str, FusedModule]:
    """The fused modules, by name."""
    return {name: m for name, m in model.model.named_modules() if isinstance(m, FusedModule)}


def choose_in_turn(model: FusedModel, rows: int = 3) -> None:
    """Give row i expert (or task) i in every block, whatever the method would choose."""
    model.selection.set(torch.arange(rows)[:, None].repeat(1, model.base.blocks))


def added(layer: FusedModule, rows: int = 3, tokens: int = 6) -> Tensor:
    """What an update adds to its map's output for a random input."""
    x = inputs(layer.base, rows, tokens)
    return layer.update.output(layer.base, x) - layer.base(x)


def inputs(base: nn.Module, rows: int = 3, tokens: int = 6) -> Tensor:
    """A random input `(rows, tokens, in)` in the type of the base's weights; token ids for an embedding."""
    generator = torch.Generator().manual_seed(6)
    if isinstance(base, nn.Embedding):
        return torch.randint(0, base.num_embeddings, (rows, tokens), generator=generator)
    weight = next(base.parameters())
    into = weight.shape[0] if type(base).__name__ == "Conv1D" else weight.shape[-1]
    return torch.randn(rows, tokens, into, generator=generator).to(weight.dtype)


def require_experts(method: FusionMethod) -> None:
    """DoesNotApplyError for methods that use no experts."""
    if not method.fuses_experts:
        raise DoesNotApplyError("it fuses no experts")


def gap(got: Tensor, expected: Tensor) -> float:
    """The largest difference, in nats where both are log-probabilities; infinite where one is not finite."""
    difference = (got.double() - expected.double()).abs().max().item() if got.numel() else 0.0
    return difference if difference == difference else float("inf")


def apart(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest distance of two updates' outputs, relative to the second's length."""
    if got.keys() != expected.keys():
        return float("inf")
    norms = [
        ((got[m] - expected[m]).double().norm() / expected[m].double().norm().clamp(min=1e-30)).item()
        for m in expected
    ]
    return max((n if n == n else float("inf") for n in norms), default=0.0)
