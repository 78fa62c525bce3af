"""What an analysis is: typed options, a documented result as JSON, and a picture of it."""

from __future__ import annotations

import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Generic, TypeVar

from matplotlib.figure import Figure
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lorafuse_bench.files import write_json
from lorafuse_bench.picture import write_figure
from lorafuse_bench.registry import Named
from lorafuse_bench.registry import option as option

Say = Callable[[str], None]
"""Shows one line of progress."""


def _parts(value: Any) -> Any:
    return value.split(",") if isinstance(value, str) else value


Count = Annotated[int, Field(ge=1)]
"""A whole number of at least 1."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""A finite number above 0."""
Counts = Annotated[tuple[Count, ...], BeforeValidator(_parts), Field(min_length=1)]
"""Whole numbers of at least 1, separated by commas on a command line."""
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_parts), Field(min_length=1)]
"""Whole numbers of at least 0, separated by commas on a command line."""


class Part(BaseModel):
    """A part of a result, or a whole one: plain numbers and words, each field with a description."""

    model_config = ConfigDict(frozen=True, extra="forbid")


R = TypeVar("R", bound=Part)


@dataclass(frozen=True, kw_only=True)
class Analysis(Named, ABC, Generic[R]):
    """A question to a zoo or to results. Options are the dataclass fields of a subclass; `R` is its result."""

    between_words = "-"
    version: ClassVar[str] = "1"
    """That of its result's fields."""

    @abstractmethod
    def run(self, say: Say) -> R:
        """The answer. LorafuseError, before anything long runs, where the options fit nothing."""

    @abstractmethod
    def figure(self, result: R) -> Figure:
        """A picture of the answer."""

    @property
    def out(self) -> Path:
        """Where its files go unless told otherwise."""
        return Path(".")

    @classmethod
    def faults(cls) -> Iterator[str]:
        """`run` must be annotated with a result whose fields are described."""
        result = cls.result()
        if not (isinstance(result, type) and issubclass(result, Part)):
            yield "does not say what run returns: annotate it with a class derived from Part"
            return
        for name, field in result.model_fields.items():
            if not field.description:
                yield f'has a result whose {name} nobody described: write Field(description="...")'

    @classmethod
    def result(cls) -> type[Part]:
        """The type of its result: what `run` is annotated to return."""
        found: type[Part] = typing.get_type_hints(cls.run).get("return", object)
        return found

    def write(self, result: R, folder: Path) -> tuple[Path, Path]:
        """Write `<name>.json`, its schema beside the result's fields, and `<name>.png`."""
        data, picture = folder / f"{self.name}.json", folder / f"{self.name}.png"
        schema = f"lorafuse.analysis.{self.name.replace('-', '_')}/{self.version}"
        write_json(data, {"schema": schema, **result.model_dump(mode="json")})
        write_figure(self.figure(result), picture)
        return data, picture
