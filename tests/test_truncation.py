"""The one rule that cuts prompts: beginning and end stay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lorafuse_bench.truncation import truncate


def test_the_middle_goes():
    assert truncate(list(range(100)), 8) == [0, 1, 2, 3, 4, 5, 98, 99]


def test_a_prompt_that_fits_is_whole():
    assert truncate([3, 1, 2], 3) == [3, 1, 2]


def test_one_token_is_the_last_one():
    assert truncate([3, 1, 2], 1) == [2]


@given(st.lists(st.integers(), max_size=60), st.integers(1, 70))
def test_never_longer_and_always_both_ends(prompt, room):
    kept = truncate(prompt, room)
    assert len(kept) == min(len(prompt), room)
    if len(prompt) >= room:
        assert kept[-1:] == prompt[-1:]
    if room > 1:
        assert kept[:1] == prompt[:1]


@pytest.mark.parametrize("room", [0, -3])
def test_no_room_is_an_error(room):
    with pytest.raises(ValueError, match="less than one"):
        truncate([1], room)
