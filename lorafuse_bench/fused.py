"""FusedModel: one loaded base model in which fusion methods are switched in place."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench.base_model import Base
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import (
    AdapterArtefact,
    BlockVisitor,
    FusionMethod,
    Prompts,
    RouterArtefact,
)
from lorafuse_bench.layers import FusedModule, Selection, install
from lorafuse_bench.zoo.manifest import AdapterEntry, RouterEntry, Zoo, embedded_root

ROUTER_WEIGHTS = "router.safetensors"
ADAPTER_WEIGHTS = "adapter.safetensors"


class FusedModel:
    """A base model, the experts of a zoo, and the method that currently joins them.

    The base's weights are never written to: a method's updates lie beside the linear maps they
    adapt, and `use` replaces them. `fuse_seconds` and `extra_parameters` are the last `use`'s cost.
    """

    def __init__(self, model: PreTrainedModel, zoo: Zoo, pool: ExpertPool) -> None:
        self.model = model
        self.zoo = zoo
        self.pool = pool
        self.selection = Selection()
        self.method: FusionMethod | None = None
        self.fuse_seconds = 0.0
        self.extra_parameters = 0
        self.base = Base(model)
        self._routers: dict[str, RouterArtefact] = {}
        self._adapters: dict[str, AdapterArtefact] = {}
        self._in_use: dict[str, RouterEntry | AdapterEntry] = {}
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
        self.clear()  # an update may stand in for a whole block, whose parts must be the base's
        with torch.no_grad():
            updates = dict(method.updates(self))
        for name, update in updates.items():
            update.to(*self.base.place_of(name))
        install(self.model, self.base.modules, updates)
        self.method = method
        self.fuse_seconds = time.perf_counter() - start
        routers = [self._routers[name] for name in self._in_use if name in self._routers]
        beside = sum(tensor.numel() for router in routers for tensor in router.tensors.values())
        self.extra_parameters = sum(update.size for update in updates.values()) + beside

    @property
    def in_use(self) -> tuple[RouterEntry | AdapterEntry, ...]:
        """The zoo's routers and adapters that the current method asked for, by name."""
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
        """Expert per prompt and block under the current method; None when rows are not told apart."""
        assert self.method is not None
        index = self.method.select(self, prompts)
        self.selection.set(None)
        return index

    def router(self, method: str, **settings: Any) -> RouterArtefact:
        """The zoo's first router for `method` whose settings match those given (None matches all)."""
        wanted = {key: value for key, value in settings.items() if value is not None}
        entries = [entry for entry in self.zoo.manifest.routers if entry.method == method]
        for entry in entries:
            if all(entry.settings.get(key) == value for key, value in wanted.items()):
                self._in_use[entry.name] = entry
                return self._load_router(entry)
        have = ", ".join(entry.name for entry in entries) or "none"
        text = " and ".join(f"{key}={value}" for key, value in wanted.items())
        raise LorafuseError(
            f"zoo '{self.zoo.name}' has no router for method '{method}' with {text} (it has: {have})."
            f" Train one with `lorafuse train router --out {self.zoo.root}`."
        )

    def adapter(self, method: FusionMethod) -> AdapterArtefact:
        """The zoo's first adapter trained with this method's options, on the suite it names if it names one."""
        entry = adapter_entry(self.zoo, method)
        self._in_use[entry.name] = entry
        return self._load_adapter(entry)

    @torch.no_grad()
    def visit_blocks(self, prompts: Prompts, visitor: BlockVisitor) -> None:
        """Run the blocks over the prompts, calling `visitor(block, hidden)` before each."""
        with block_hooks(self.base.layers, visitor):
            # The inner model: routing needs no logits.
            self.model.base_model(
                input_ids=prompts.input_ids, attention_mask=prompts.mask.long(), use_cache=False
            )

    def _load_router(self, entry: RouterEntry) -> RouterArtefact:
        if entry.name not in self._routers:
            tensors = self._tensors("router", entry, ROUTER_WEIGHTS)
            joint = {adapter.name: adapter for adapter in entry.adapters}
            pool = (
                ExpertPool.from_entries(self.zoo, [joint[name] for name in self.pool.names])
                if joint
                else None
            )
            self._routers[entry.name] = RouterArtefact(
                entry.name, tensors, entry.settings, entry.experts, pool
            )
        return self._routers[entry.name]

    def _load_adapter(self, entry: AdapterEntry) -> AdapterArtefact:
        if entry.name not in self._adapters:
            if entry.base_sha256 != self.zoo.manifest.base.sha256:
                raise LorafuseError(
                    f"adapter '{entry.name}' was trained on another base than the one of zoo"
                    f" '{self.zoo.name}'. Train it again with `lorafuse train adapter --out {self.zoo.root}`."
                )
            tensors = self._tensors("adapter", entry, ADAPTER_WEIGHTS)
            self._adapters[entry.name] = AdapterArtefact(entry.name, tensors, entry.tasks)
        return self._adapters[entry.name]

    def _tensors(self, kind: str, entry: RouterEntry | AdapterEntry, file: str) -> dict[str, Tensor]:
        """A trained part's tensors on the model's device; the file must be the one the manifest describes."""
        path = self.zoo.root / entry.path / file
        if not path.is_file() or sha256_file(path) != entry.sha256:
            raise LorafuseError(
                f"{kind} '{entry.name}': {path} is missing or not the file the manifest describes."
                f" Train it again with `lorafuse train {kind} --out {self.zoo.root}`."
            )
        return {key: value.to(self.model.device) for key, value in load_file(path).items()}


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
    """Warn where factors that started apart are combined before they are multiplied."""
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
