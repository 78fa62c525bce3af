"""Log-likelihoods under a fused model: shared prefixes are read once, logits made only where scored."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Ensembling
from lorafuse_bench.model_wrappers.prefix import Node, Tokens, forest, separate

_SLOTS = 256
"""Distributions turned into log-probabilities at a time."""

T = TypeVar("T")


@dataclass(frozen=True)
class Scored:
    """One log-likelihood to compute: `log p(continuation | context)` of a task's request, in tokens."""

    context: Tokens
    continuation: Tokens
    task: str

    @property
    def inputs(self) -> Tokens:
        """What the model reads: all tokens but the last, which is only scored."""
        return (self.context + self.continuation)[:-1]


@dataclass(frozen=True)
class _Target:
    """After token `position` of a batch's node number `node`, request `row` has `token`."""

    node: int
    position: int
    row: int
    token: int


@dataclass(frozen=True)
class _Past:
    """What a batch of nodes leaves to its children: which columns are real, and a cache per chunk."""

    mask: Tensor
    caches: list[Cache] = field(default_factory=list)


class Scorer:
    """Scores requests in forward passes of at most `rows` rows, or of one chunk of an ensemble's members.

    The requests' inputs form a forest (prefix.py). A batch of nodes reads its tokens after the cached
    keys and values of their parents; its children follow before the next batch, so that one batch a
    level is held. Each node runs under its own choice of experts, or under every member of an
    ensemble: row `n M + m` is node n under member m.
    """

    def __init__(self, fused: FusedModel, rows: int, share: bool) -> None:
        self.fused = fused
        self.rows = rows
        self.share = share
        self.device = fused.model.device
        self.ensemble = fused.method if isinstance(fused.method, Ensembling) else None
        self.members = self.ensemble.members(fused) if self.ensemble else None
        self.skips_logits = "logits_to_keep" in inspect.signature(fused.model.forward).parameters

    @torch.no_grad()
    def score(
        self,
        requests: Sequence[Scored],
        choices: Sequence[Tensor] | None = None,
        report: Callable[[int], object] = lambda done: None,
    ) -> list[tuple[float, bool]]:
        """`(log p(continuation | context), whether greedy decoding gives it)` of each request.

        `choices[i] (blocks,)` is the expert per block of request i; `report` is told of each finished one.
        """
        inputs = [request.inputs for request in requests]
        keys = [tuple(choice.tolist()) for choice in choices] if choices else [()] * len(inputs)
        roots = forest(inputs, keys) if self.share else separate(inputs)
        self._requests, self._choices = requests, choices
        totals, greedy = [0.0] * len(requests), [True] * len(requests)
        unread = [len(request.continuation) for request in requests]
        try:
            for row, log_probability, best in self._run([(root, 0) for root in roots], None):
                totals[row] += log_probability
                greedy[row] &= best
                unread[row] -= 1
                report(unread[row] == 0)
        finally:
            self.fused.selection.set(None)
        return list(zip(totals, greedy, strict=True))

    def _run(self, nodes: list[tuple[Node, int]], past: _Past | None) -> Iterator[tuple[int, float, bool]]:
        """`(request, log-probability, is it the best)` of every target of the nodes and their descendants.

        Each node comes with its parent's place in the batch that left `past`.
        """
        nodes = sorted(nodes, key=lambda pair: -len(pair[0].tokens))
        for batch in batches(nodes, max(1, self.rows // self._width())):
            members = [node for node, _ in batch]
            left, scores = self._read(members, [parent for _, parent in batch], past)
            yield from scores
            children = [(child, i) for i, node in enumerate(members) for child in node.children]
            if children:
                yield from self._run(children, left)

    def _read(
        self, nodes: list[Node], parents: list[int], past: _Past | None
    ) -> tuple[_Past, list[tuple[int, float, bool]]]:
        """Run one batch of nodes, under every member, and score what follows their tokens."""
        left = _Past(self._mask(nodes, parents, past))
        targets = _targets(nodes, self._requests)
        columns = sorted({target.position for target in targets} or {0})
        slots = sorted({(target.node, columns.index(target.position)) for target in targets})
        parts = [torch.tensor(part, device=self.device).T for part in batches(slots, _SLOTS)]
        totals: list[Tensor | None] = [None] * len(parts)
        for i, chunk in enumerate(self._chunks()):
            cache = _selected(past.caches[i], parents, len(chunk), self.device) if past else None
            logits, cache = self._forward(nodes, chunk, cache, left.mask, columns)
            left.caches.append(cache)
            for j, (node, column) in enumerate(parts):
                totals[j] = self._add(totals[j], logits[node, :, column].transpose(0, 1).float(), chunk)
        by_slot: dict[tuple[int, int], list[_Target]] = {slot: [] for slot in slots}
        for target in targets:
            by_slot[target.node, columns.index(target.position)].append(target)
        scores: list[tuple[int, float, bool]] = []
        for part, total in zip(batches(slots, _SLOTS), totals, strict=True):
            assert total is not None
            scores += _scores(self._finish(total), [by_slot[slot] for slot in part])
        return left, scores

    def _forward(
        self, nodes: list[Node], chunk: range, cache: Cache | None, mask: Tensor, columns: list[int]
    ) -> tuple[Tensor, Cache]:
        """Logits `(nodes, members, columns, V)` under a chunk of members, and the cache that is left."""
        ids = pad_sequence([torch.tensor(node.tokens) for node in nodes], batch_first=True).to(self.device)
        inputs = {"input_ids": ids}
        if cache is not None:
            starts = torch.tensor([[node.start] for node in nodes], device=self.device)
            last = torch.tensor([[len(node.tokens) - 1] for node in nodes], device=self.device)
            # Padding repeats the last position: the next may lie beyond the model's length.
            inputs["position_ids"] = starts + torch.arange(ids.shape[1], device=self.device).minimum(last)
            inputs["attention_mask"] = mask.long()
        # Without a cache no mask is needed: causal attention never looks at padding on the right.
        kept = torch.tensor(columns, device=self.device)
        self.fused.selection.set(self._selection(nodes, chunk))
        output = self.fused.model(
            **{key: value.repeat_interleave(len(chunk), 0) for key, value in inputs.items()},
            past_key_values=cache,
            use_cache=cache is not None or any(node.children for node in nodes),
            **({"logits_to_keep": kept} if self.skips_logits else {}),
        )
        logits = output.logits if self.skips_logits else output.logits[:, kept]
        return logits.unflatten(0, (len(nodes), len(chunk))), output.past_key_values

    def _mask(self, nodes: list[Node], parents: list[int], past: _Past | None) -> Tensor:
        """`(nodes, columns)`, true where a node or what it follows has a token, not padding."""
        lengths = torch.tensor([len(node.tokens) for node in nodes], device=self.device)
        own = torch.arange(int(lengths.max()), device=self.device) < lengths[:, None]
        return own if past is None else torch.cat([past.mask[parents], own], dim=1)

    # --- members --------------------------------------------------------------------------------

    def _width(self) -> int:
        """Rows a node takes."""
        return 1 if self.members is None else len(self.members.weights)

    def _chunks(self) -> list[range]:
        """The members, in the portions that share a forward pass."""
        chunk = (self.ensemble.chunk if self.ensemble else None) or max(1, self.rows)
        return [range(self._width())[i : i + chunk] for i in range(0, self._width(), chunk)]

    def _selection(self, nodes: list[Node], chunk: range) -> Tensor | None:
        """Expert per row and block for the nodes under a chunk of members; None without row routing."""
        if self.members is not None:
            return self.members.index[list(chunk)].repeat(len(nodes), 1).to(self.device)
        if self._choices is None:
            return None
        return torch.stack([self._choices[_first(node)] for node in nodes])

    def _add(self, total: Tensor | None, logits: Tensor, chunk: range) -> Tensor:
        if self.ensemble is None or self.members is None:
            return logits[0]
        return self.ensemble.add(total, logits, self.members.weights[list(chunk)].to(self.device))

    def _finish(self, total: Tensor) -> Tensor:
        return total.log_softmax(-1) if self.ensemble is None else self.ensemble.log_probabilities(total)


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether keys and values of a prefix serve any continuation of this model, whatever the padding.

    They do not where a layer keeps a window or a running state, or where angles hang on the length.
    """
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parameters = inspect.signature(model.forward).parameters
    return (
        {"past_key_values", "position_ids"} <= set(parameters)
        and all(type(layer) is DynamicLayer for layer in DynamicCache(config=model.config).layers)
        and config._attn_implementation in ("eager", "sdpa")
        and rope.get("rope_type") not in ("dynamic", "longrope")
    )


def batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """The items in portions of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _targets(nodes: Sequence[Node], requests: Sequence[Scored]) -> list[_Target]:
    """What the nodes' tokens have to predict, for every request that runs through them."""
    targets = []
    for i, node in enumerate(nodes):
        for row in node.sequences():
            request = requests[row]
            first = max(node.start, len(request.context) - 1)
            end = node.start + len(node.tokens)
            for position in range(first, end):
                token = request.continuation[position + 1 - len(request.context)]
                targets.append(_Target(i, position - node.start, row, token))
    return targets


def _scores(log_probabilities: Tensor, targets: Sequence[Sequence[_Target]]) -> list[tuple[int, float, bool]]:
    """Read the targets of each slot off its distribution: `log_probabilities (slots, V)`."""
    flat = [(i, target) for i, slot in enumerate(targets) for target in slot]
    slot = torch.tensor([i for i, _ in flat], device=log_probabilities.device)
    token = torch.tensor([target.token for _, target in flat], device=log_probabilities.device)
    values = log_probabilities[slot, token].tolist()
    best = (log_probabilities.argmax(-1)[slot] == token).tolist()
    return [(target.row, value, top) for (_, target), value, top in zip(flat, values, best, strict=True)]


def _selected(cache: Cache, parents: Sequence[int], members: int, device: torch.device) -> Cache:
    """The cache's rows of the parents, `members` a parent, without touching the original."""
    rows = torch.tensor(parents)[:, None] * members + torch.arange(members)
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows.flatten().to(device))
    return chosen


def _first(node: Node) -> int:
    """Some request that runs through the node; all have the same choice."""
    return next(iter(node.sequences()))
