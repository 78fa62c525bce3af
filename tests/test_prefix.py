"""The forest of shared prefixes."""

from __future__ import annotations

import random
from collections.abc import Iterator

from lorafuse_bench.prefix import Node, Tokens, forest, separate


def paths(roots: list[Node], before: Tokens = ()) -> Iterator[tuple[int, Tokens]]:
    """Every sequence as it is read along its path."""
    for node in roots:
        assert node.start == len(before)
        assert node.tokens
        here = before + node.tokens
        yield from ((i, here) for i in node.ends)
        yield from paths(node.children, here)


def tokens_read(roots: list[Node]) -> int:
    return sum(len(node.tokens) + tokens_read(node.children) for node in roots)


def test_four_choices_and_a_few_shot_prefix() -> None:
    shots = tuple(range(100, 130))
    documents = [tuple(range(10 * d, 10 * d + 20)) for d in (1, 5)]
    rows = [shots + document + (90 + c, 80, 81) for document in documents for c in range(4)]
    (root,) = forest(rows, [()] * 8)
    assert root.tokens == shots
    assert [node.tokens for node in sorted(root.children, key=lambda n: n.tokens)] == documents
    assert sorted(dict(paths([root])).items()) == list(enumerate(rows))
    assert tokens_read([root]) == 30 + 2 * 20 + 8 * 3


def test_equal_inputs_are_read_once_and_prefixes_of_others_end_on_the_way() -> None:
    context = tuple(range(20))
    (root,) = forest([context, (*context, 7), context, (*context, 8)], [()] * 4)
    assert root.tokens == context
    assert root.ends == [0, 2]
    assert sorted((node.tokens, node.ends) for node in root.children) == [((7,), [1]), ((8,), [3])]


def test_short_prefixes_are_not_worth_a_pass() -> None:
    rows = [(1, 2, d, *range(30)) for d in range(3, 9)]
    assert sorted(dict(paths(forest(rows, [()] * 6))).items()) == list(enumerate(rows))
    assert all(not root.children for root in forest(rows, [()] * 6))


def test_other_keys_share_nothing() -> None:
    rows = [tuple(range(40))] * 3
    roots = forest(rows, ["a", "b", "a"])
    assert sorted(root.ends for root in roots) == [[0, 2], [1]]


def test_empty_sequences_are_left_out() -> None:
    assert forest([(), ()], [0, 1]) == separate([()]) == []
    assert [root.ends for root in forest([(), (3,)], [0, 0])] == [[1]]


def test_any_sequences_are_read_whole_and_never_with_more_tokens() -> None:
    draw = random.Random(0)
    for _ in range(200):
        rows: list[Tokens] = []
        for _ in range(draw.randint(1, 20)):
            stem = draw.choice(rows) if rows and draw.random() < 0.8 else ()
            tail = [draw.randint(0, 2) for _ in range(draw.randint(0, 30))]
            rows.append((*stem[: draw.randint(0, len(stem))], *tail))
        keys = [draw.randint(0, 1) for _ in rows]
        roots = forest(rows, keys)
        whole = {i: row for i, row in enumerate(rows) if row}
        assert dict(paths(roots)) == whole
        assert tokens_read(roots) <= sum(map(len, rows))


def test_deep_nesting_is_cut_and_no_recursion_limit_is_met() -> None:
    rows = [tuple(range(n)) for n in range(10, 2500, 2)]
    roots = forest(rows, [()] * len(rows))
    assert dict(paths(roots)) == dict(enumerate(rows))
    assert max(node.level for node in walk(roots)) < 8


def walk(roots: list[Node]) -> Iterator[Node]:
    for node in roots:
        yield node
        yield from walk(node.children)
