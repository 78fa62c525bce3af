"""FusedModel: one loaded base model in which fusion methods are switched in place."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench import artefacts
from lorafuse_bench.base_model import Base
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import (
    AdapterArtefact,
    BlockVisitor,
    FusionMethod,
    Learned,
    Prompts,
    RowRouting,
)
from lorafuse_bench.layers import FusedModule, Selection, Update, install
from lorafuse_bench.progress import current
from lorafuse_bench.zoo.manifest import AdapterEntry, ArtefactEntry, Zoo, embedded_root

ADAPTER_WEIGHTS = "adapter.safetensors"


class FusedModel:
    """A base model, the experts of a zoo, and the method that currently joins them.

    The base's weights are never written to: a method's updates lie beside the linear maps they
    adapt, and `use` replaces them. `fuse_seconds` and `extra_parameters` are the last `use`'s cost.
    """

    def __init__(self, model: PreTrainedModel, zoo: Zoo, pool: ExpertPool) -> None:
        self.model = model
        self.zoo = zoo
        self.pool = self.whole = pool
        self.selection = Selection()
        self.method: FusionMethod | None = None
        self.fuse_seconds = 0.0
        self.extra_parameters = 0
        self.base = Base(model)
        self._learned: dict[str, Learned] = {}
        self._in_use: dict[str, ArtefactEntry | AdapterEntry] = {}
        self.base.check(pool)

    @classmethod
    def of(cls, other: FusedModel, pool: ExpertPool) -> FusedModel:
        """The same loaded base with another pool; `other` gives its base back."""
        other.clear()
        return cls(other.model, other.zoo, pool)

    def use(self, method: FusionMethod) -> None:
        """Replace the current method's updates by those of `method`; where that fails, the base is left."""
        method.check(self.pool)
        warn_of_shrinking(method, self.zoo)
        start = time.perf_counter()
        self._in_use = {}
        if "fit" in method.needed:
            self.require_fit(method)
        self.pool = method.given(self.whole)
        self.clear()  # an update may stand in for a whole block, whose parts must be the base's
        with torch.no_grad(), self._watched(f"fusing {method.label()}"):
            updates = dict(method.updates(self))
        for name, update in updates.items():
            update.to(*self.base.place_of(name))
        self.put(updates)
        self.method = method
        self.fuse_seconds = time.perf_counter() - start
        # A merge or gates hold what was learned; routers of whole sequences lie beside their updates.
        routers = [self._learned[name] for name in self._in_use if isinstance(method, RowRouting)]
        beside = sum(tensor.numel() for router in routers for tensor in router.tensors.values())
        self.extra_parameters = sum(update.size for update in updates.values()) + beside

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        """Inside, the current watcher is told how many of the pool's modules are done with."""
        pool = self.pool
        with current().bar(len(pool.modules), what) as part:
            self.pool = pool.watched(part.update)
            try:
                yield
            finally:
                self.pool = pool

    def require_fit(self, method: FusionMethod) -> None:
        """LorafuseError where the method's fit is missing or stale, whether updates read it or what comes after."""
        self.artefact(method)

    def put(self, updates: Mapping[str, Update]) -> None:
        """Install updates as they are: in their own type, and differentiable where their tensors are."""
        modules = {name: self.model.get_submodule(name) for name in updates}
        fused = [module for module in self.model.modules() if isinstance(module, FusedModule)]
        if len(fused) == len(updates) and all(isinstance(module, FusedModule) for module in modules.values()):
            for name, module in modules.items():
                module.update = updates[name]
        else:
            self.clear()
            install(self.model, self.base.modules, updates)

    @property
    def in_use(self) -> tuple[ArtefactEntry | AdapterEntry, ...]:
        """The zoo's fits and adapters that the current method asked for, by name."""
        return tuple(self._in_use[name] for name in sorted(self._in_use))

    def clear(self) -> None:
        """Put the base's own linear maps back."""
        for name, module in list(self.model.named_modules()):
            if isinstance(module, FusedModule):
                self.model.set_submodule(name, module.base)
        self.selection.set(None)
        self.method = None

    @torch.no_grad()
    def select(self, prompts: Prompts) -> Tensor | None:
        """Expert per prompt and block under the current method; None if all rows are treated the same."""
        assert self.method is not None
        index = self.method.select(self, prompts)
        self.selection.set(None)
        return index

    def artefact(self, method: FusionMethod) -> Learned:
        """The zoo's fit of this method on the pool's experts; LorafuseError where there is none, or a stale one."""
        entry = artefacts.entry_of(self.zoo, method, self.pool)
        self._in_use[entry.name] = entry
        if entry.name not in self._learned:
            self._learned[entry.name] = artefacts.load(self.zoo, entry, self.model.device)
        return self._learned[entry.name]

    def adapter(self, method: FusionMethod) -> AdapterArtefact:
        """The zoo's first adapter trained with this method's options, on the suite it names if it names one."""
        entry = adapter_entry(self.zoo, method)
        self._in_use[entry.name] = entry
        again = f"Train it again with `lorafuse train adapter --out {self.zoo.root}`."
        if entry.base_sha256 != self.zoo.manifest.base.sha256:
            raise LorafuseError(
                f"adapter '{entry.name}' was trained on another base than the one of zoo '{self.zoo.name}'. {again}"
            )
        path = self.zoo.root / entry.path / ADAPTER_WEIGHTS
        read = partial(artefacts.read_tensors, path, entry.sha256, f"adapter '{entry.name}'", again)
        return AdapterArtefact(entry.name, entry.tasks, read)

    @torch.no_grad()
    def visit_blocks(self, prompts: Prompts, visitor: BlockVisitor) -> None:
        """Run the blocks over the prompts, calling `visitor(block, hidden)` before each, on the first one's device."""
        first = self.model.device
        with block_hooks(self.base.layers, lambda block, hidden: visitor(block, hidden.to(first))):
            # The inner model: routing needs no logits.
            self.model.base_model(
                input_ids=prompts.input_ids, attention_mask=prompts.mask.long(), use_cache=False
            )


def adapter_entry(zoo: Zoo, method: FusionMethod) -> AdapterEntry:
    """The zoo's first adapter for `method`, as `FusedModel.adapter` uses it; LorafuseError without one."""
    suite = method.options()["trained_on"]
    entries = [entry for entry in zoo.manifest.adapters if entry.method == method.name]
    for entry in entries:
        made = registry.create(method.name, {**entry.options, "trained_on": suite})
        if suite in (None, entry.trained_on) and made == method:
            return entry
    have = ", ".join(entry.name for entry in entries) or "none"
    where = "--base mini --out ZOO" if zoo.root == embedded_root() else f"--out {zoo.root}"
    raise LorafuseError(
        f"zoo '{zoo.name}' has no trained adapter '{method.label()}' (of this method it has: {have})."
        f" Train one with `lorafuse train adapter --method {replace(method, trained_on=None).label()}"  # type: ignore[type-var]
        f" --suite {suite or 'SUITE'} {where}`."
    )


def warn_of_shrinking(method: FusionMethod, zoo: Zoo) -> None:
    """Warn if factors are combined before they are multiplied although they started from different initialisations."""
    if method.merge_before and zoo.manifest.init == "independent":
        warnings.warn(
            f"method '{method.name}' combines factors before multiplying them, but the experts of zoo"
            f" '{zoo.name}' started from independent initialisations: the update shrinks.",
            stacklevel=3,
        )


@contextmanager
def block_hooks(layers: nn.ModuleList, visitor: BlockVisitor) -> Iterator[None]:
    """Call `visitor(block, hidden)` before each block of every forward pass inside the context."""

    def hook(block: int) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            visitor(block, args[0] if args else kwargs["hidden_states"])

        return before

    handles = [layer.register_forward_pre_hook(hook(i), with_kwargs=True) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
