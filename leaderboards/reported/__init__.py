"""The papers' printed tables as data: facts with their source, shown beside measured rows.

One JSON file per table, all of the schema `lorafuse.reported/1`. Values are as printed, in the printed
unit; nothing here is computed. What a measured row is compared with, and what the statistics must
reproduce, is read from these files.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Literal

from pydantic import Field, ValidationError

from lorafuse_bench.leaderboards.results.made_of import Strict
from lorafuse_bench.leaderboards.results.schema import invalid


class ReportedColumn(Strict):
    """What one printed column holds."""

    task: str = Field(description="Task key, or the name of the quantity if there is no task.")
    metric: str = Field(description="Metric, such as rougeL.")
    unit: str = Field(description="Unit as printed: fraction, percent, ...")
    representative: bool = Field(description="Whether the metric represents its task in the aggregate.")
    n: int | None = Field(default=None, description="Test items, where the paper says.")


class ReportedRow(Strict):
    """One printed row."""

    label: str = Field(description="Our method label where there is one, else the paper's name.")
    model: str = Field(description="Base model; empty where the table averages over several.")
    role: Literal["floor", "oracle", "method"] = Field(description="floor: base alone; oracle: own expert.")
    values: tuple[float | None, ...] = Field(description="One per column, as printed; null: blank.")
    aggregate: float | None = Field(
        default=None, description="The printed mean of the row; see the table's field."
    )
    deltas: tuple[float, ...] | None = Field(
        default=None, description="Printed changes from the base; last, their mean."
    )
    params_percent: float | None = Field(
        default=None, description="Trained parameters, percent of the model's."
    )


class Reported(Strict):
    """One table or figure of a paper."""

    schema_: Literal["lorafuse.reported/1"] = Field(
        default="lorafuse.reported/1", alias="schema", description="Schema id."
    )
    paper: str = Field(description="Title of the paper.")
    authors: str = Field(description="First author and year or others.")
    table: str = Field(description="Where in the paper, such as Table 1.")
    quantity: str = Field(description="What the numbers are: score, score over oracle, routing accuracy, ...")
    suite: str | None = Field(default=None, description="Our suite of the same tasks and metrics, if any.")
    aggregate: str | None = Field(
        default=None, description="What the rows' aggregate is and where it is printed."
    )
    tolerance: float | None = Field(
        default=None, description="How far rounding lets the aggregate be recomputed."
    )
    columns: tuple[ReportedColumn, ...] = Field(description="The printed columns.")
    rows: tuple[ReportedRow, ...] = Field(description="The printed rows.")
    lists: dict[str, tuple[str, ...]] = Field(default_factory=dict, description="Printed lists of names.")
    protocol: str | None = Field(
        default=None, description="How the paper evaluates otherwise than the suite does; boards say it."
    )
    note: str | None = Field(default=None, description="What a reader of the numbers must know.")


def load(name: str) -> Reported:
    """One table by its file name without `.json`."""
    source = files(__name__) / f"{name}.json"
    try:
        return Reported.model_validate_json(source.read_bytes())
    except ValidationError as error:
        raise invalid(f"reported/{name}.json", error) from error


def names() -> list[str]:
    """Names of all tables."""
    found = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(".json") for name in found if name.endswith(".json"))


def tables_of(suite: str) -> Iterator[Reported]:
    """The tables whose tasks and metrics are those of one of our suites."""
    for name in names():
        table = load(name)
        if table.suite == suite:
            yield table
