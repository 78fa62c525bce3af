"""Finding methods by name and making them from text options."""

from __future__ import annotations

from lorafuse_bench import fusion
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.registry import Registry

METHODS: Registry[FusionMethod] = Registry("method", fusion, "lorafuse.methods", FusionMethod)
"""Every file under fusion/, and the entry points of other packages."""

register = METHODS.register
methods = METHODS.all
create = METHODS.create
parse = METHODS.parse


def parse_all(specs: str) -> list[FusionMethod]:
    """The methods of specs separated by commas; LorafuseError has a line for each that is wrong."""
    found, errors = [], []
    for spec in specs.split(","):
        try:
            found.append(parse(spec.strip()))
        except LorafuseError as error:
            errors.append(str(error))
    if errors:
        raise LorafuseError("\n".join(errors))
    return found
