"""YAML that people write: read without running anything, and no larger than it is written."""

from __future__ import annotations

from typing import Any

import yaml

MOST_PARTS = 100_000
"""Values that a file's aliases may stand for, written out; a longer file may hold one for each of its bytes."""


def parse(content: bytes, loader: type[Any] = yaml.SafeLoader, once: bool = True) -> Any:
    """What a YAML document holds, None where it is empty.

    ValueError or yaml.YAMLError where it is none, where its aliases stand for more than MOST_PARTS values or for
    themselves, and, with `once`, where a key stands twice in a mapping: YAML's own loader would take the last.
    """
    reader = loader(content)
    try:
        document = reader.get_single_node()
        if document is None:
            return None
        most = max(len(content), MOST_PARTS)
        if _parts(document, most, {}, once) > most:
            raise ValueError("its aliases (*) stand for too many values, or for themselves")
        return reader.construct_document(document)
    finally:
        reader.dispose()


def _parts(node: yaml.Node, most: int, known: dict[int, int], once: bool) -> int:
    """The values below a node with its aliases written out, counted up to `most` + 1."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = most + 1  # for a node inside itself
        pairs = isinstance(node, yaml.MappingNode)
        if pairs and once:
            _refuse_twice(node)
        inner = [part for pair in node.value for part in pair] if pairs else node.value
        known[id(node)] = min(most + 1, 1 + sum(_parts(part, most, known, once) for part in inner))
    return known[id(node)]


def _refuse_twice(node: yaml.Node) -> None:
    keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
    if len(set(keys)) < len(keys):
        raise ValueError(f"{max(keys, key=keys.count)} is there twice")
