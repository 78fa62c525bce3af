"""YAML is read as it is written: no key is lost, and no few lines stand for gigabytes."""

from __future__ import annotations

import time

import pytest
import yaml

from lorafuse_bench.yaml_files import MOST_PARTS, parse


def laughs(kind: str) -> str:
    """Ten lines, each ten times the one before, by aliases or by merges of mappings."""
    parts = {"lists": "a{i}: &a{i} [{ten}]\n", "merges": "a{i}: &a{i} {{<<: [{ten}], k{i}: 1}}\n"}
    lines = ["a0: &a0 {x: 1}\n"]
    lines += [parts[kind].format(i=i, ten=", ".join([f"*a{i - 1}"] * 10)) for i in range(1, 10)]
    return "".join(lines)


@pytest.mark.parametrize("text", [laughs("lists"), laughs("merges"), "a: &a [*a]", "&a {b: {c: *a}}"])
def test_aliases_that_stand_for_more_than_a_file_holds_are_refused_at_once(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ValueError, match="too many values, or for themselves"):
        parse(text.encode())
    assert time.process_time() - start < 1


def test_a_long_file_and_aliases_are_read_as_yaml_reads_them() -> None:
    text = f"a: &a {{b: 1}}\nc: [*a, *a]\nd: {{<<: *a, e: 2}}\nf: {list(range(MOST_PARTS + 1))}"
    assert parse(text.encode()) == yaml.safe_load(text)
    assert parse(b"") is None


@pytest.mark.parametrize("text", ["a: 1\na: 2", "- {b: {c: 1, c: 2}}"])
def test_a_key_that_stands_twice_is_refused_unless_it_may(text: str) -> None:
    with pytest.raises(ValueError, match="is there twice"):
        parse(text.encode())
    assert parse(text.encode(), once=False) == yaml.safe_load(text)
