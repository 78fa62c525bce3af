"""Log-likelihoods under a fused model: shared prefixes are read once, logits made only where scored."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Ensembling
from lorafuse_bench.prefix import Node, Row, Tokens, forest, pack, separate

_SLOTS = 256
"""Distributions turned into log-probabilities at a time."""

_PACKED = 512
"""Tokens of a row that holds several nodes, at most: its attention is quadratic in them."""

T = TypeVar("T")


class Answers(Protocol):
    """Answers of requests by their number, kept as they are made."""

    def __contains__(self, request: int) -> bool: ...
    def __getitem__(self, request: int) -> Any: ...
    def add(self, finished: Mapping[int, Any]) -> None: ...


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
    """At place `slot` of row `row` of a batch, request `request` has `token` next."""

    row: int
    slot: int
    request: int
    token: int


@dataclass(frozen=True)
class _Past:
    """What a batch of rows leaves to those after it: which columns are real, and a cache per chunk."""

    mask: Tensor
    caches: list[Cache] = field(default_factory=list)


class Scorer:
    """Scores requests in forward passes of at most `rows` rows, or of one chunk of an ensemble's members.

    The requests' inputs form a forest, packed into rows (prefix.py) that are no longer than the longest input.
    In a row of several nodes the attention mask lets each see only what it follows. A batch of rows may
    continue cached keys and values of the batch before; what comes after it follows before the next
    batch, so that one batch a level is held. Each row runs under one choice of experts, or under every
    member of an ensemble: row `n M + m` is row n under member m.
    """

    def __init__(self, fused: FusedModel, rows: int, share: bool) -> None:
        self.fused = fused
        self.rows = rows
        self.share = share
        self.device = fused.model.device
        self.ensemble = fused.method if isinstance(fused.method, Ensembling) else None
        self.members = self.ensemble.members(fused) if self.ensemble else None

    @torch.no_grad()
    def score(
        self,
        requests: Sequence[Scored],
        choices: Sequence[Tensor] | None = None,
        report: Callable[[int], object] = lambda done: None,
        kept: Answers | None = None,
    ) -> list[tuple[float, bool]]:
        """`(log p(continuation | context), whether greedy decoding gives it)` of each request.

        `choices[i] (blocks,)` is the expert per block of request i; `report` is told how many each batch finished.
        A batch that only `kept` answers hang on is passed over; `kept` is given those that each batch finished.
        """
        totals, greedy = [0.0] * len(requests), [True] * len(requests)
        unread = [len(request.continuation) for request in requests]
        done = {i: kept[i] for i in range(len(requests)) if i in kept} if kept is not None else {}
        for scores in self._batches(requests, choices, frozenset(done)):
            finished = {}
            for target, log_probability, best in scores:
                i = target.request
                totals[i] += log_probability
                greedy[i] &= best
                unread[i] -= 1
                if not unread[i] and i not in done:
                    finished[i] = (totals[i], greedy[i])
            if kept is not None:
                kept.add(finished)
            report(len(finished))
        for i, answer in done.items():
            totals[i], greedy[i] = answer
        return list(zip(totals, greedy, strict=True))

    @torch.no_grad()
    def score_tokens(
        self, requests: Sequence[Scored], choices: Sequence[Tensor] | None = None
    ) -> list[list[float]]:
        """`log p` of each token of each request's continuation, given all that stands before it.

        Of an empty context the continuation's first token has nothing before it, and is left out.
        """
        found: list[list[float]] = [[] for _ in requests]
        for scores in self._batches(requests, choices):
            for target, log_probability, _ in scores:
                found[target.request].append(log_probability)
        return found

    def _batches(
        self, requests: Sequence[Scored], choices: Sequence[Tensor] | None, done: frozenset[int] = frozenset()
    ) -> Iterator[list[tuple[_Target, float, bool]]]:
        """The targets of each batch, see `_run`; those of one request come in the order of its tokens."""
        inputs = [request.inputs for request in requests]
        self._requests, self._choices, self._kept = requests, choices, done
        self._keys = [tuple(choice.tolist()) for choice in choices] if choices else [()] * len(inputs)
        roots = forest(inputs, self._keys) if self.share else separate(inputs)
        self._capacity = min(_PACKED, max(map(len, inputs), default=0)) if self.share else 0
        try:
            yield from self._run([(root, 0) for root in roots], None)
        finally:
            self.fused.selection.set(None)

    def _run(
        self, nodes: list[tuple[Node, int]], past: _Past | None
    ) -> Iterator[list[tuple[_Target, float, bool]]]:
        """For each batch every target of its nodes, its log-probability, and whether it is the best.

        Each node comes with the row of the batch that left `past` which it continues.
        """
        rows = pack(nodes, self._capacity, lambda node: self._keys[_first(node)])
        for batch in batches(rows, max(1, self.rows // self._width())):
            if all(i in self._kept for row in batch for node in row.nodes for i in node.sequences()):
                continue
            left, scores = self._read(batch, past)
            yield scores
            after = [(node, i) for i, row in enumerate(batch) for node in row.after]
            if after:
                yield from self._run(after, left)

    def _read(
        self, rows: Sequence[Row], past: _Past | None
    ) -> tuple[_Past, list[tuple[_Target, float, bool]]]:
        """Run one batch of rows, under every member, and score what follows their tokens."""
        parents = [row.past for row in rows]
        lengths = torch.tensor([row.length for row in rows], device=self.device)
        own = torch.arange(rows[0].length, device=self.device) < lengths[:, None]
        left = _Past(own if past is None else torch.cat([past.mask[parents], own], dim=1))
        inputs = self._inputs(rows, past.mask[parents] if past else None)
        columns, targets = _targets(rows, self._requests)
        kept = self._padded(columns)
        slots = [(row, slot) for row, each in enumerate(columns) for slot in range(len(each))]
        parts = [torch.tensor(part, device=self.device).T for part in batches(slots, _SLOTS)]
        totals: list[Tensor | None] = [None] * len(parts)
        for i, chunk in enumerate(self._chunks()):
            cache = _selected(past.caches[i], parents, len(chunk)) if past else None
            logits, cache = self._forward(rows, chunk, inputs, cache, kept)
            left.caches.append(cache)
            for j, (row, slot) in enumerate(parts):
                totals[j] = self._add(totals[j], logits[row, :, slot].transpose(0, 1).float(), chunk)
        scores: list[tuple[_Target, float, bool]] = []
        for part, total in zip(batches(slots, _SLOTS), totals, strict=True):
            assert total is not None
            scores += _scores(self._finish(total), [targets[slot] for slot in part])
        return left, scores

    def _inputs(self, rows: Sequence[Row], past: Tensor | None) -> dict[str, Tensor]:
        """The model's inputs for the rows, after earlier columns, of which `past (rows, columns)` are real."""
        tokens = [[token for node in row.nodes for token in node.tokens] for row in rows]
        inputs = {"input_ids": self._padded(tokens)}
        if past is None and all(len(row.nodes) == 1 for row in rows):
            # Causal attention is all it takes: it never looks at padding on the right.
            return inputs
        positions = [[node.start + i for node in row.nodes for i in range(len(node.tokens))] for row in rows]
        column = torch.arange(rows[0].length, device=self.device)
        # Trees lie in preorder: a token is seen by those after it up to where what is below its node ends.
        end = self._padded([_ends(row) for row in rows], len(column))
        seen = (column <= column[:, None]) & (column[:, None] < end[:, None])
        if past is not None:
            seen = torch.cat([past[:, None].expand(-1, len(column), -1), seen], dim=2)
        dtype = self.fused.model.dtype
        hidden = torch.zeros(seen.shape, dtype=dtype, device=self.device)
        hidden.masked_fill_(~seen, torch.finfo(dtype).min)
        return inputs | {"position_ids": self._padded(positions), "attention_mask": hidden[:, None]}

    def _padded(self, values: Sequence[Sequence[int]], padding: int = 0) -> Tensor:
        tensors = [torch.tensor(each, dtype=torch.long) for each in values]
        return pad_sequence(tensors, batch_first=True, padding_value=padding).to(self.device)

    def _forward(
        self, rows: Sequence[Row], chunk: range, inputs: dict[str, Tensor], cache: Cache | None, kept: Tensor
    ) -> tuple[Tensor, Cache]:
        """Logits `(rows, members, slots, V)` at the columns `kept (rows, slots)`, and the cache that is left."""
        self.fused.selection.set(self._selection(rows, chunk))
        with logits_at(self.fused.model, kept.repeat_interleave(len(chunk), 0)):
            output = self.fused.model(
                **{key: value.repeat_interleave(len(chunk), 0) for key, value in inputs.items()},
                past_key_values=cache,
                use_cache=cache is not None or any(row.after for row in rows),
            )
        return output.logits.unflatten(0, (len(rows), len(chunk))), output.past_key_values

    # --- members --------------------------------------------------------------------------------

    def _width(self) -> int:
        """Rows of a forward pass that a row takes."""
        return 1 if self.members is None else len(self.members.weights)

    def _chunks(self) -> list[range]:
        """The members, in the portions that share a forward pass."""
        chunk = (self.ensemble.chunk if self.ensemble else None) or max(1, self.rows)
        return [range(self._width())[i : i + chunk] for i in range(0, self._width(), chunk)]

    def _selection(self, rows: Sequence[Row], chunk: range) -> Tensor | None:
        """Expert per row and block for the rows under a chunk of members; None without row routing."""
        if self.members is not None:
            return self.members.index[list(chunk)].repeat(len(rows), 1).to(self.device)
        if self._choices is None:
            return None
        return torch.stack([self._choices[_first(row.nodes[0])] for row in rows])

    def _add(self, total: Tensor | None, logits: Tensor, chunk: range) -> Tensor:
        if self.ensemble is None or self.members is None:
            return logits[0]
        return self.ensemble.add(total, logits, self.members.weights[list(chunk)].to(self.device))

    def _finish(self, total: Tensor) -> Tensor:
        return total.log_softmax(-1) if self.ensemble is None else self.ensemble.log_probabilities(total)


def shares_prefixes(model: PreTrainedModel) -> bool:
    """Whether keys and values of a prefix serve any continuation of this model, whatever the padding.

    They do not where a layer keeps a window or a running state, or where angles depend on the length.
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


@contextmanager
def logits_at(model: PreTrainedModel, columns: Tensor) -> Iterator[None]:
    """Let the model's output layer read only `columns (rows, slots)` of each row."""

    def choose(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = args
        here = columns.to(hidden.device)
        return (hidden[torch.arange(len(here), device=here.device)[:, None], here], *others)

    head = model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def _targets(
    rows: Sequence[Row], requests: Sequence[Scored]
) -> tuple[list[list[int]], dict[tuple[int, int], list[_Target]]]:
    """The columns of each row that something is read off at, and by `(row, slot)` what is read there."""
    columns: list[list[int]] = []
    targets: dict[tuple[int, int], list[_Target]] = {}
    for i, row in enumerate(rows):
        columns.append([])
        offset = 0
        for node in row.nodes:
            by_position: dict[int, list[tuple[int, int]]] = {}
            for number in node.sequences():
                request = requests[number]
                first = max(node.start, len(request.context) - 1)
                for position in range(first, node.start + len(node.tokens)):
                    token = request.continuation[position + 1 - len(request.context)]
                    by_position.setdefault(position, []).append((number, token))
            for position in sorted(by_position):
                slot = len(columns[i])
                columns[i].append(offset + position - node.start)
                targets[i, slot] = [_Target(i, slot, *pair) for pair in by_position[position]]
            offset += len(node.tokens)
    return columns, targets


def _ends(row: Row) -> list[int]:
    """For each token of the row, the column after the last one below its node."""
    ends: list[int] = []
    for node in row.nodes:
        reach = len(node.tokens) if row.after else node.size
        ends += [len(ends) + reach] * len(node.tokens)
    return ends


def check_numbers(found: Tensor) -> Tensor:
    """What a model gives; LorafuseError where some of it is NaN, of which any score could be made."""
    if bool(found.isnan().any()):
        raise LorafuseError(
            "the model gives NaN. In float16 numbers above 65,504 overflow: use --dtype bfloat16 or float32; else the"
            " base's weights or its config.json are damaged."
        )
    return found


def _scores(
    log_probabilities: Tensor, targets: Sequence[Sequence[_Target]]
) -> list[tuple[_Target, float, bool]]:
    """Read the targets of each slot off its distribution: `log_probabilities (slots, V)`."""
    flat = [(i, target) for i, slot in enumerate(targets) for target in slot]
    slot = torch.tensor([i for i, _ in flat], device=log_probabilities.device)
    token = torch.tensor([target.token for _, target in flat], device=log_probabilities.device)
    values = check_numbers(log_probabilities[slot, token]).tolist()
    best = (log_probabilities.argmax(-1)[slot] == token).tolist()
    return [(target, value, top) for (_, target), value, top in zip(flat, values, best, strict=True)]


def _selected(cache: Cache, parents: Sequence[int], members: int) -> Cache:
    """The cache's rows of the parents, `members` a parent, without touching the original."""
    rows = (torch.tensor(parents)[:, None] * members + torch.arange(members)).flatten()
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    layers: Sequence[Any] = chosen.layers
    for layer in layers:  # on several devices where blocks are
        layer.batch_select_indices(rows.to(layer.keys.device))
    return chosen


def _first(node: Node) -> int:
    """Some request that runs through the node; all have the same choice."""
    return next(iter(node.sequences()))
