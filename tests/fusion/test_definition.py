"""What is wrong with a method's definition is told when it is registered, in one line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from lorafuse_bench import fusion
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import Merge, Merged, option
from lorafuse_bench.registry import Registry

FROZEN = dataclass(frozen=True)


def fuse(self: Any, pool: ExpertPool) -> Merged:
    return Merged()


def made(
    options: dict[str, tuple[Any, Any]] | None = None,
    decorate: Callable[[type], type] = FROZEN,
    bases: tuple[type, ...] = (Merge,),
    **body: Any,
) -> type:
    """A method class with `options {name: (annotation, default)}`; what is None in `body` is left out."""
    whole = {"__doc__": "One.", "name": "one", "paper": "none", "fuse": fuse} | body
    kept: dict[str, Any] = {key: value for key, value in whole.items() if value is not None}
    kept["__annotations__"] = {name: hint for name, (hint, _) in (options or {}).items()}
    kept |= {name: default for name, (_, default) in (options or {}).items() if default is not ...}
    return decorate(type("One", bases, kept | {"__module__": __name__}))


def raising(self: Any) -> None:
    raise RuntimeError("no")


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (lambda: made(name=None), "has no name: give it `name"),
        (lambda: made(name=""), "has no name"),
        (lambda: made(name="My-Method"), "has a name, 'My-Method', that is not of small"),
        (lambda: made(name="a:b"), "has a name, 'a:b', that"),
        (lambda: made(family=""), "has no family"),
        (lambda: made(family="merge"), "has no family: give it one of floor"),
        (lambda: made(paper=None), "has no paper"),
        (lambda: made(paper="  "), "has no paper"),
        (lambda: made(version=2), "has a version, 2, that is no text"),
        (lambda: made(needs={"router"}), "has needs {'router'} that are no frozenset"),
        (
            lambda: made(needs=frozenset({"rooter"})),
            "has needs frozenset.{'rooter'}. that are no frozenset of task_id",
        ),
        (lambda: made(__doc__=None), "has no docstring"),
        (lambda: made(fuse=None), "does not define fuse"),
        (lambda: made({"k": (int, option(1, ""))}), "has an option k without help"),
        (lambda: made({"k": (int, 1)}), "has an option k without help"),
        (lambda: made({"k": (int, option(help="h"))}), "has options without a default: k"),
        (
            lambda: made({"k": (tuple, dataclasses.field(default_factory=list))}),
            "has an option k with a mutable default",
        ),
        (
            lambda: made({"k": (list[int], option(None, "h"))}),
            r"has an option k of list\[int\], which cannot be hashed",
        ),
        (lambda: made({"k": (dict[str, int] | None, option(None, "h"))}), "has an option k of dict"),
        (
            lambda: made({"k": (int, option("four", "h"))}),
            "has an option k whose default 'four' it does not take",
        ),
        (lambda: made({"k": (ExpertPool, option(None, "h"))}), "has an option k of .* which no text can"),
        (
            lambda: made({"k": ("Missing", option(None, "h"))}),
            "has annotations that cannot be read .NameError",
        ),
        (lambda: made({"name": (str, "one")}), "takes its name for an option: drop the annotation"),
        (lambda: made({"k": (int, option(1, "h"))}, lambda cls: cls), "is no dataclass"),
        (lambda: made(decorate=dataclass), "is no dataclass|can be changed"),
        (lambda: made(__post_init__=raising), "cannot be made with its defaults .RuntimeError: no"),
        (lambda: made(laws_broken={"gravity": "none"}), "breaks 'gravity', which is no law"),
        (
            lambda: made(laws_broken={"order of the experts": " "}),
            "breaks 'order of the experts' and does not say",
        ),
        (lambda: made(absent_experts="zeros"), "has absent_experts = 'zeros': say one of zero updates, no"),
        (lambda: made(costs={"parameters": 3}), "has costs .* that are no Costs: write"),
        (
            lambda: made({"control": (str | None, option(None, "h"))}),
            "has an option control, which every method has",
        ),
        (lambda: int, "is no FusionMethod: derive"),
    ],
)
def test_a_wrong_definition_is_one_line(cls: Callable[[], type], message: str) -> None:
    with pytest.raises(LorafuseError, match=message) as caught:
        registry.register(cls())  # type: ignore[type-var]
    assert "\n" not in str(caught.value)
    assert "one" not in registry.methods()


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(
        LorafuseError,
        match=r"method test_definition\.One has no name.*; it has no paper.*; it has an option k",
    ):
        registry.register(made({"k": (int, 1)}, name=None, paper=None))  # type: ignore[type-var]


@pytest.mark.parametrize("default", [[], {}, set()])
def test_a_mutable_default_is_refused_where_it_is_written(default: Any) -> None:
    with pytest.raises(LorafuseError, match="option 'what it does' has a mutable default"):
        option(default, "what it does")


def test_a_whole_definition_passes() -> None:
    kinds: Registry[Any] = Registry("method", fusion, "none", Merge)
    assert kinds.register(made({"k": (int | None, option(None, "how many"))})).name == "one"
