"""Finding methods by name and making them from text options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorafuse_bench import fusion
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.base import CONTROL, FusionMethod
from lorafuse_bench.fusion.controls import controlled
from lorafuse_bench.registry import Registry, split_options

METHODS: Registry[FusionMethod] = Registry("method", fusion, "lorafuse.methods", FusionMethod)
"""Every file under fusion/, and the entry points of other packages."""

register = METHODS.register
methods = METHODS.all


def create(name: str, options: Mapping[str, Any] | None = None) -> FusionMethod:
    """The method called `name` with `options`, or where these name a `control` that of it (fusion/controls.py)."""
    own = dict(options or {})
    control = own.pop(CONTROL, None)
    method = METHODS.create(name, own)
    return method if control is None else controlled(method, control)


def parse(spec: str) -> FusionMethod:
    """A method from `name` or `name:option=value+option=value`; a bare option means true."""
    name, _, tail = spec.partition(":")
    return create(name, split_options(tail))


def parse_all(specs: str) -> list[FusionMethod]:
    """The methods of specs separated by commas; LorafuseError has a line for each that is wrong."""
    found, errors, before = [], [], ""
    for spec in map(str.strip, specs.split(",")):
        if before and "=" in spec.partition(":")[0]:  # an option, not a name
            before += ("+" if ":" in before else ":") + spec
            errors.append(f"'{spec}' is no method. Options are joined by +: {before}")
            continue
        before = spec
        try:
            found.append(parse(spec))
        except LorafuseError as error:
            errors.append(str(error))
    if errors:
        raise LorafuseError(*errors)
    return found
