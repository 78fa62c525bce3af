"""Prefix sharing: token sequences as a forest in which what several begin with is one node, packed into rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

Tokens = tuple[int, ...]

_WORTH = 8
"""Tokens that one more node must save for each of its children: what a pass of its own costs, roughly."""

_LEVELS = 8
"""Nodes on a path at most, so that keys and values of few batches are held at a time."""


@dataclass(eq=False)
class Node:
    """A run of tokens that several sequences share, or the end of one.

    `tokens` stand from position `start` on, after those of `parent`; `ends` are the indices of the
    sequences that are complete with this node.
    """

    tokens: Tokens
    start: int
    parent: Node | None = None
    ends: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)

    @property
    def level(self) -> int:
        """Nodes above this one."""
        return 0 if self.parent is None else 1 + self.parent.level

    @property
    def size(self) -> int:
        """Tokens of this node and of all below it."""
        return sum(len(node.tokens) for node in self.preorder())

    def preorder(self) -> Iterator[Node]:
        """This node and all below it, each before its children."""
        yield self
        for child in self.children:
            yield from child.preorder()

    def sequences(self) -> Iterator[int]:
        """The sequences that run through this node."""
        yield from self.ends
        for child in self.children:
            yield from child.sequences()


@dataclass(eq=False)
class Row:
    """What one row of a forward pass reads: whole trees one after another, or one node of a larger tree.

    It continues row `past` of the pass before, if there is one; `after` is to be read after it.
    """

    past: int
    nodes: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)
    length: int = 0


def pack(nodes: Sequence[tuple[Node, int]], capacity: int, key: Callable[[Node], Hashable]) -> list[Row]:
    """Rows that read the nodes, each given with its past row, and of small trees all below; longest first.

    Trees of at most `capacity` tokens share a row as long as they fit together, have the same past and an
    equal `key`. The root of a larger one has a row of its own, and its children come after it.
    """
    rows: list[Row] = []
    filling: dict[Hashable, Row] = {}
    sized = sorted(((node.size, node, past) for node, past in nodes), key=lambda item: -item[0])
    for size, node, past in sized:
        if size > capacity:
            rows.append(Row(past, [node], node.children, len(node.tokens)))
            continue
        row = filling.get((past, key(node)))
        if row is None or row.length + size > capacity:
            row = filling[past, key(node)] = Row(past)
            rows.append(row)
        row.nodes += node.preorder()
        row.length += size
    return sorted(rows, key=lambda row: -row.length)


def separate(sequences: Sequence[Tokens]) -> list[Node]:
    """Every sequence on its own: the forest without sharing. Empty ones are left out."""
    return [Node(tokens, 0, ends=[i]) for i, tokens in enumerate(sequences) if tokens]


def forest(sequences: Sequence[Tokens], keys: Sequence[Hashable]) -> list[Node]:
    """The roots of a forest whose paths are the sequences; only those of equal key share nodes.

    A prefix of `s` further tokens that `n` branches share becomes a node where that saves at least
    `_WORTH` tokens a branch: `s (n - 1) >= _WORTH n`. Else its tokens are repeated in every branch.
    Empty sequences are left out.
    """
    by_key: dict[Hashable, dict[Tokens, list[int]]] = {}
    for i, (tokens, key) in enumerate(zip(sequences, keys, strict=True)):
        if tokens:
            by_key.setdefault(key, {}).setdefault(tokens, []).append(i)
    roots: list[Node] = []
    for owners in by_key.values():
        # Sorted, sequences with a common prefix are neighbours. A stack, as nesting may go deep.
        pending: list[tuple[list[Tokens], Node | None]] = [(sorted(owners), None)]
        while pending:
            group, parent = pending.pop()
            start = 0 if parent is None else parent.start + len(parent.tokens)
            shared = _common(group[0], group[-1], start)
            ended = [tokens for tokens in group if len(tokens) == shared]
            branches = [list(part) for _, part in groupby(group[len(ended) :], key=lambda t: t[shared])]
            saved = (shared - start) * (len(branches) + len(ended) - 1)
            shallow = parent is None or parent.level < _LEVELS - 2
            if not branches or (shallow and saved >= _WORTH * len(branches)):
                node = _attach(roots, parent, group[0][start:shared], start)
                node.ends = owners[ended[0]] if ended else []
                parent = node
            elif ended:
                _attach(roots, parent, ended[0][start:], start).ends = owners[ended[0]]
            pending += [(branch, parent) for branch in branches]
    return roots


def _attach(roots: list[Node], parent: Node | None, tokens: Tokens, start: int) -> Node:
    node = Node(tokens, start, parent)
    (roots if parent is None else parent.children).append(node)
    return node


def _common(first: Tokens, last: Tokens, start: int) -> int:
    """Length of the common prefix of two sequences that agree before `start`."""
    end = min(len(first), len(last))
    if first[start:end] == last[start:end]:
        return end
    return next(i for i in range(start, end) if first[i] != last[i])
