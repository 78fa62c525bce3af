"""What is registered says what it is, whatever its kind; what does not is refused in one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import Field

from lorafuse_bench import analysis
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.registry import Named, Registry, option


@pytest.fixture
def kinds() -> Registry[Any]:
    """An empty registry: its package is looked through only when all are asked for."""
    found: Registry[Any] = Registry("thing", analysis, "lorafuse.things")
    found._complete = True
    return found


@dataclass(frozen=True)
class Whole(Named):
    """What it is."""

    count: Annotated[int, Field(ge=1)] = option(2, "how many")
    name, paper = "whole", "a paper"


@dataclass(frozen=True)
class Given(Named):
    """What must be told something."""

    folder: str = option(help="where")
    name, paper = "given", "a paper"


@dataclass(frozen=True)
class Silent(Named):
    name, paper = "silent", "a paper"


@dataclass(frozen=True)
class Nameless(Named):
    """What it is."""

    paper = "a paper"


@dataclass(frozen=True)
class Sourceless(Named):
    """What it is."""

    name = "sourceless"


@dataclass(frozen=True)
class Helpless(Named):
    """What it is."""

    count: int = 2
    name, paper = "helpless", "a paper"


class Plain(Named):
    """What it is."""

    name, paper = "plain", "a paper"


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Silent, "Silent has no docstring"),
        (Nameless, "Nameless has no name"),
        (Sourceless, "Sourceless has no paper"),
        (Helpless, "Helpless has an option count without help"),
        (Plain, "Plain is no dataclass"),
    ],
)
def test_what_does_not_say_what_it_is_is_refused(
    kinds: Registry[Any], cls: type[Named], message: str
) -> None:
    with pytest.raises(LorafuseError, match=f"^thing .*{message}") as error:
        kinds.register(cls)
    assert "\n" not in str(error.value) and not kinds.all()


def test_options_are_checked_by_their_types(kinds: Registry[Any]) -> None:
    kinds.register(Whole)
    assert kinds.create("whole", {"count": "3"}) == Whole(count=3)
    with pytest.raises(LorafuseError, match="thing 'whole': option count='0': .*greater than or equal to 1"):
        kinds.create("whole", {"count": "0"})


def test_an_option_without_a_default_must_be_given(kinds: Registry[Any]) -> None:
    kinds.register(Given)
    assert kinds.create("given", {"folder": "here"}) == Given(folder="here")
    with pytest.raises(LorafuseError, match="thing 'given' needs folder"):
        kinds.create("given")
