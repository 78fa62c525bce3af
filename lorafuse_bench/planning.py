"""How much memory a model takes with experts or an adapter: counted on shapes, no weight is read, nothing computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from lorafuse_bench.base_model import Base
from lorafuse_bench.device import mixed_precision
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool, ModuleStack
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, linear_maps
from lorafuse_bench.fusion.base import Ensembling, FusionMethod, Merge, RowRouting
from lorafuse_bench.fusion.fitted import Fitted
from lorafuse_bench.fusion.routing.gates import softmax_top_k
from lorafuse_bench.layers import (
    DenseUpdate,
    GatedUpdate,
    RowUpdate,
    Selection,
    StaticUpdate,
    Update,
    install,
    linear_shape,
)
from lorafuse_bench.loading import load_config, positions_of, skeleton
from lorafuse_bench.memory import Alive
from lorafuse_bench.merge_sizes import rank_of_merge
from lorafuse_bench.zoo.manifest import Zoo

_MIXED = 4
"""Experts that a router of tokens mixes; that many or one, the memory is the same."""
_SLOTS = 256
"""Distributions that the scorer turns into log-probabilities at a time."""


@dataclass(frozen=True)
class Work:
    """One pass: rows, tokens of each, and at how many of them logits are made, which is where answers are scored.

    `cache`: whether keys and values are kept, which training never does; `recompute`: gradient checkpointing.
    """

    batch_size: int = 1
    tokens: int = 2048
    answer: int = 32
    train: bool = False
    cache: bool = True
    recompute: bool = False


@dataclass(frozen=True)
class Experts:
    """A pool by its sizes; `targets`: the maps they adapt, such as q_proj/v_proj, all in the blocks where None."""

    count: int = 0
    rank: int = 8
    targets: str | None = None

    def __len__(self) -> int:
        return self.count


@dataclass(frozen=True)
class Memory:
    """Bytes by part.

    `weights` of the base; `experts` in the pool; `updates`: what the method keeps beside them, such as gates, a merge
    or an adapter; `optimizer`: Adam's moments; `cache`: keys and values of every token; `activations`: the most at
    once in the blocks; `logits`: the most at once after them, with what the blocks left and, in training, gradients.
    """

    weights: int
    experts: int
    updates: int
    optimizer: int
    cache: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """The most at once: blocks and output layer take turns."""
        kept = self.weights + self.experts + self.updates + self.optimizer + self.cache
        return kept + max(self.activations, self.logits)

    @property
    def beside(self) -> int:
        """The most at once beside the weights."""
        return self.total - self.weights

    def record(self) -> dict[str, int]:
        """Every part, and the total."""
        return {**asdict(self), "total": self.total}


def of_cell(
    zoo: Zoo, method: FusionMethod, pool: ExpertPool, batch_size: int, tokens: int | None, dtype: torch.dtype
) -> Memory:
    """What evaluating a method with a zoo's experts `pool` takes; the weights of the base are not read.

    tokens: the longest row, None for the zoo's own; the base's own at most. LorafuseError as for `memory_of`.
    """
    folder = zoo.find_base()
    longest = tokens or zoo.manifest.max_length or Work.tokens
    longest = min(longest, positions_of(load_config(folder)) or longest)
    tasks = [len(entry.tasks) for entry in zoo.manifest.adapters if entry.method == method.name]
    work = Work(batch_size, longest, min(Work.answer, longest))
    return memory_of(folder, method, method.given(pool), work, dtype, max(tasks, default=1))


def memory_of(
    folder: str | Path,
    method: FusionMethod,
    experts: Experts | ExpertPool,
    work: Work,
    dtype: torch.dtype,
    tasks: int = 1,
) -> Memory:
    """What the base whose config.json is in `folder` takes under a method, in `dtype`.

    tasks: how many a trained adapter tells apart. LorafuseError for a base whose blocks branch on values, and for
    training a method that is no adapter.
    """
    if work.train and not isinstance(method, TrainedAdapter):
        raise LorafuseError(
            f"method '{method.name}' trains no adapter. Plan its evaluation, or a method of `lorafuse train adapter`."
        )
    if method.fuses_experts and not len(experts):
        raise LorafuseError(f"method '{method.name}' needs experts. Say how many.")
    shapes = skeleton(folder, dtype)
    if getattr(shapes.config, "quantization_config", None):
        raise LorafuseError(
            f"the base in {folder} has quantised weights, whose bytes its shape does not tell. Plan the base that it"
            " was made of, or measure a run."
        )
    with _counted(f"the base in {folder}") as alive:
        model = _without_values(shapes)
        weights = alive.bytes
        base = Base(model)
        pool = _pool(base, experts) if method.fuses_experts else {}
        held = alive.bytes - weights
        updates = _updates(method, base, pool, tasks, work)
        kept = alive.bytes - weights - held
        install(model, base.modules, updates)
        if work.recompute:
            base.recompute()
        trained = [p for update in updates.values() for p in update.parameters() if p.requires_grad]
        return Memory(weights, held, kept, moments(trained), *_passes(model, work, alive))


def of_loaded(model: PreTrainedModel, work: Work, trained: Sequence[Tensor] = ()) -> Memory:
    """What work takes on a model that is loaded, with whatever updates are in place; all it holds are `weights`.

    trained: what gradients and moments are kept of. LorafuseError for a model that branches on values.
    """
    with _counted(f"a {type(model).__name__}") as alive:
        # Made without values here, where they are counted once, whoever reads them.
        held = [tensor.detach() for tensor in (*model.parameters(), *model.buffers(), *trained)]
        weights = alive.bytes
        try:
            return Memory(weights, 0, 0, moments(trained), *_passes(model, work, alive))
        finally:
            del held
            for tensor in trained:
                tensor.grad = None


@contextmanager
def _counted(what: str) -> Iterator[Alive]:
    """Inside, tensors have no values, and what they would take is counted."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Alive() as alive, _GroupedProducts():
            yield alive
    except LorafuseError:
        raise
    except Exception as error:  # what asks for values, by whatever means
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200].rstrip(".")
        raise LorafuseError(
            f"the memory of {what} cannot be counted on shapes alone: {reason}. Measure a run of it instead."
        ) from error


class _GroupedProducts(TorchDispatchMode):
    """The shape of a mixture's products of each token's experts in any type: torch's own rule knows bfloat16 alone."""

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._grouped_mm.default and args[1].dim() == 3:
            tokens, weights = args[:2]  # (n, in), (experts, in, out)
            return tokens.new_empty(len(tokens), weights.shape[2])
        return func(*args, **(kwargs or {}))


def _without_values(model: PreTrainedModel) -> PreTrainedModel:
    """The same modules with tensors that have a place in memory and no values."""
    empty: PreTrainedModel = model.to_empty(device="cpu")
    empty.tie_weights()
    return empty.requires_grad_(False).eval()


def _pool(base: Base, experts: Experts | ExpertPool) -> dict[str, ModuleStack]:
    """The experts' stacks as a pool keeps them, without their values."""
    if isinstance(experts, ExpertPool):
        sizes = {name: (stack.shape, stack.ranks) for name, stack in experts.modules.items()}
    else:
        maps, ranks = linear_maps(base, experts.targets), (experts.rank,) * experts.count
        sizes = {name: (linear_shape(module, name), ranks) for name, module in maps.items()}
    return {name: ModuleStack.zeros(*size, base.place_of(name)[1]) for name, size in sizes.items()}


def _updates(
    method: FusionMethod, base: Base, pool: Mapping[str, ModuleStack], tasks: int, work: Work
) -> dict[str, Update]:
    """Updates of the sizes that the method's have."""
    selection = Selection()
    if isinstance(method, TrainedAdapter):
        adapter = method.attach(base, tasks, selection)
        for name, update in adapter.items() if not work.train else ():
            update.requires_grad_(False).eval().fold()
            # `to` cannot swap tensors without values.
            for tensor in (*update.parameters(), *update.buffers()):
                tensor.data = tensor.data.to(base.place_of(name)[1])
        return dict(adapter)
    if isinstance(method, Merge):
        return {name: _merged(stack, _rank(method, stack.ranks, stack.shape)) for name, stack in pool.items()}
    if isinstance(method, RowRouting | Ensembling):
        with unset_fake_temporarily():
            rows = torch.arange(work.batch_size) % len(next(iter(pool.values())).ranks)
            selection.set(rows[:, None].repeat(1, base.blocks))
        return {name: RowUpdate(stack, selection, base.block_of(name)) for name, stack in pool.items()}
    return {name: _gated(stack, isinstance(method, Fitted)) for name, stack in pool.items()}


def _gated(stack: ModuleStack, learned: bool) -> Update:
    """Gates for every token; what is learned for them are N directions."""
    experts, into = len(stack.ranks), stack.A.shape[2]
    weigh = partial(softmax_top_k, k=min(_MIXED, experts))
    probes = stack.A.new_empty(experts, into) if learned else None
    return GatedUpdate(
        stack.A, stack.B, lambda hidden, _: hidden.norm(dim=-2), weigh, [False] * experts, probes=probes
    )


@cache
def _rank(method: Merge, ranks: tuple[int, ...], shape: tuple[int, int]) -> int | None:
    with unset_fake_temporarily():
        return rank_of_merge(method, ranks, shape)


def _merged(stack: ModuleStack, rank: int | None) -> Update:
    """The update that a merge makes of a stack: of full rank, where it says none."""
    out, into = stack.shape
    if rank is None:
        return DenseUpdate(stack.A.new_empty(stack.shape))
    return StaticUpdate(stack.A.new_empty(rank, into), stack.B.new_empty(out, rank))


def moments(trained: Iterable[Tensor]) -> int:
    """Bytes of Adam's two moments."""
    return 2 * sum({id(tensor): tensor.nbytes for tensor in trained}.values())


def _passes(model: PreTrainedModel, work: Work, alive: Alive) -> tuple[int, int, int]:
    """Bytes of the cache, and the most at once in the blocks and after them."""
    ids = torch.zeros(work.batch_size, work.tokens, dtype=torch.long, device=model.device)
    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    keep = work.cache and not work.train
    with _computing(model, work):
        start = alive.restart()
        passed = model.get_decoder()(input_ids=ids, use_cache=keep)
        blocks, hidden = alive.peak - start, passed.last_hidden_state
        cache = alive.bytes - start - hidden.nbytes if keep else 0
        alive.restart()
        _score(head(hidden[:, work.tokens - work.answer :]).flatten(0, 1), work)
        return cache, blocks - cache, alive.peak - start - cache


@contextmanager
def _computing(model: PreTrainedModel, work: Work) -> Iterator[None]:
    """As evaluation computes, or training, which does so in mixed precision."""
    with (
        torch.set_grad_enabled(work.train),
        mixed_precision(model.device, model.dtype if work.train else torch.float32),
    ):
        yield


def _score(logits: Tensor, work: Work) -> None:
    """What becomes of logits `(n, V)`: log-probabilities, some at a time, or a loss and its gradients."""
    if work.train:
        F.cross_entropy(logits.float(), logits.new_zeros(len(logits), dtype=torch.long)).backward()
    else:
        logits.clone().float()[:_SLOTS].log_softmax(-1)
