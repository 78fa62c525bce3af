"""The leaderboard file: boards of (suite, zoo name), each a table of methods by tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, ValidationError

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import strict_json, write_text
from lorafuse_bench.leaderboards.results.made_of import Cost, Strict
from lorafuse_bench.leaderboards.results.reading import parsed, read_bytes
from lorafuse_bench.leaderboards.results.schema import Dataset, invalid

LEADERBOARD_SCHEMA = "lorafuse.leaderboard/1"

Role = Literal["floor", "oracle", "method", "control"]


class Score(Strict):
    """One number with its uncertainty, over one zoo or several replicates."""

    value: float = Field(description="The value; the mean over seeds where there are several.")
    se: float | None = Field(description="Standard error over items; with several seeds their mean, a bound.")
    sd: float | None = Field(description="Standard deviation over zoo seeds; null for one seed.")
    by_seed: dict[int, float] = Field(description="Zoo seed to its value; empty where a paper reports it.")


class TaskScores(Strict):
    """One method on one task."""

    metrics: dict[str, Score] = Field(description="Metric name to its raw value.")
    normalised: Score | None = Field(
        default=None,
        description="Representative metric over the oracle's; null where the task does not count.",
    )
    difference: Score | None = Field(
        default=None, description="For a loss: this method's minus the oracle's."
    )
    recovered: Score | None = Field(
        default=None,
        description="For a loss: (base - method) / (base - oracle); null where the task does not count.",
    )
    change: Score | None = Field(
        default=None,
        description="On a board of oblivion: the representative metric after minus before, the base's.",
    )


class Column(Strict):
    """One task of the board."""

    task: str = Field(description="Task key.")
    metric: str = Field(description="Its representative metric.")
    direction: Literal["up", "down"] = Field(description="up: larger is better; down: a loss.")
    unit: str = Field(description="Unit of the representative metric.")
    dataset: Dataset = Field(description="The rows it was measured on.")
    n: int = Field(description="Items evaluated, for each seed.")
    counts: bool = Field(description="Whether the task is normalised by its oracle.")
    reason: str | None = Field(
        description="Why it is not; null where it is, and on a board of oblivion, which has no oracle."
    )


class Losses(Strict):
    """One method on a board of losses: unweighted means over its tasks, in the tasks' unit; lower is better."""

    mean: Score = Field(description="Mean loss; `se` is over items.")
    se_tasks: float | None = Field(description="sd/sqrt(T) of the T tasks' losses, over seeds their mean.")
    excess: Score = Field(description="Mean loss minus the oracle's, over the same items: what ranks.")
    recovered: Score | None = Field(
        description="Mean of (base - method) / (base - oracle) over the tasks that count; null where none does."
    )


class Row(Strict):
    """One method."""

    label: str = Field(description="Canonical method spec, or the paper's name of a reported row.")
    family: str = Field(description="Family of the method.")
    role: Role = Field(
        description="floor: the base alone or one wrong expert; oracle: the upper reference; control: what a method"
        " must beat, beneath its row; else method."
    )
    control_of: str | None = Field(
        default=None,
        exclude_if=lambda label: label is None,
        description="Label of the method that this is a control of; absent from other rows.",
    )
    method_lead: Score | None = Field(
        default=None,
        exclude_if=lambda lead: lead is None,
        description="Of a control: its method's ability minus its own, paired over items; of losses its own minus the"
        " method's, of oblivion the method's mean score minus its own. Absent where either is incomplete.",
    )
    origin: Literal["measured", "reported"] = Field(description="Measured here, or printed in a paper.")
    source: str | None = Field(default=None, description="Paper, table and model of a reported row.")
    rank: int | None = Field(
        default=None, description="Place among complete measured methods, by ability or least loss."
    )
    rank_low: int | None = Field(
        default=None, description="Best place it may have: 1 + methods surely better (see Ranking)."
    )
    rank_high: int | None = Field(
        default=None, description="Worst place it may have: all methods less those surely worse."
    )
    tied: bool = Field(default=False, description="Whether another method has the very same ability.")
    note: str | None = Field(
        default=None, description="Such as 'incomplete 4/5'; null where nothing is missing."
    )
    ability: Score | None = Field(description="Mean over counted tasks; null where incomplete.")
    overall: Score | None = Field(
        default=None,
        description="On a board of oblivion: mean of the raw scores, losses apart; null where incomplete.",
    )
    change: Score | None = Field(
        default=None, description="On a board of oblivion: overall minus that of the base, before."
    )
    losses: Losses | None = Field(
        default=None,
        exclude_if=lambda found: found is None,
        description="On a board of losses: null where incomplete.",
    )
    tasks: dict[str, TaskScores] = Field(description="Task key to scores; a missing task is absent.")
    cost: Cost | None = Field(default=None, description="Mean over seeds; null for a reported row.")
    run_ids: tuple[str, ...] = Field(default=(), description="The cells it was made from, by seed.")
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="The method's options, all of them."
    )
    version: str | None = Field(default=None, description="Version of the method; null for a reported row.")
    sources: tuple[str, ...] = Field(
        default=(), description="sha256 of the method's code; several where it changed between the cells."
    )


class Replicate(Strict):
    """One zoo of a board."""

    seed: int = Field(description="Seed of the zoo.")
    sha256: str = Field(description="sha256 of its manifest.")
    base_sha256: str = Field(description="sha256 of its base.")
    init: str = Field(description="LoRA initialisation of the experts: shared or independent.")
    experts: tuple[str, ...] = Field(description="Names of the experts.")


class Pair(Strict):
    """Two methods: a's ability minus b's."""

    a: str = Field(description="Label of the one that ranks higher.")
    b: str = Field(description="Label of the other.")
    difference: float = Field(description="Ability of a minus ability of b.")
    se: float = Field(description="Its standard deviation over the bootstrap's draws.")
    p: float = Field(description="Two-sided p of no difference, after Holm's correction over all pairs.")


class Ranking(Strict):
    """How the rank intervals were had: a paired bootstrap of the items, stratified by task."""

    draws: int = Field(description="Bootstrap draws; the same items for all methods and the oracle.")
    seed: int = Field(description="Seed of the draws.")
    level: float = Field(description="Chance of even one false claim among all pairs.")
    correction: Literal["holm"] = Field(default="holm", description="Correction for the number of pairs.")
    pairs: tuple[Pair, ...] = Field(description="Every pair of ranked methods.")


class Provenance(Strict):
    """What the measured rows were made with."""

    base: str = Field(description="Base model.")
    dtype: str = Field(description="Type the weights were evaluated in.")
    data: str = Field(description="Data source; the same for every cell.")
    splits: dict[str, JsonValue] = Field(description="Which file served which split, by seed.")
    limit: int | float | None = Field(description="Items per task at most; null for all.")
    versions: dict[str, tuple[str, ...]] = Field(description="Package to the versions used.")
    commits: tuple[str, ...] = Field(description="Commits, '+' where there were local changes.")
    hardware: tuple[str, ...] = Field(description="Processors and accelerators, in words.")


class Board(Strict):
    """The table of one suite on one zoo and its replicates."""

    suite: str = Field(description="Name of the suite.")
    zoo: str = Field(description="Name of the zoo.")
    caption: str = Field(description="What the table shows, in a few honest sentences.")
    provenance: Provenance = Field(description="How the measured rows came about.")
    replicates: tuple[Replicate, ...] = Field(description="The zoos, by seed.")
    oblivion: bool = Field(
        default=False,
        description="Whether no expert was trained for these tasks: scores stand before and after fusing,"
        " the base alone being the before.",
    )
    losses: bool = Field(
        default=False,
        exclude_if=lambda losses: not losses,
        description="Whether all tasks are losses: rows rank by their mean minus the oracle's, lower is better.",
    )
    columns: tuple[Column, ...] = Field(description="The tasks, in the suite's order.")
    ranking: Ranking | None = Field(
        default=None, description="Pairs of methods; null where nothing is ranked."
    )
    rows: tuple[Row, ...] = Field(description="Measured rows, best first; then the papers' reported rows.")


class Leaderboard(Strict):
    """leaderboard.json."""

    schema_: Literal["lorafuse.leaderboard/1"] = Field(
        default="lorafuse.leaderboard/1", alias="schema", description="Schema id."
    )
    boards: tuple[Board, ...] = Field(description="By suite and zoo name.")

    def __str__(self) -> str:
        """Every board as a table, as the terminal shows it."""
        from lorafuse_bench.leaderboards.boards.tables import tables_of

        return "\n\n".join(map(str, tables_of(self)))

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from lorafuse_bench.leaderboards.boards.tables import tables_of

        return "".join(table._repr_html_() for table in tables_of(self))


def rounded(value: JsonValue) -> JsonValue:
    """Floats to ten significant digits, so that a board does not differ by the last bit of a processor."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return value


def content(leaderboard: Leaderboard) -> JsonValue:
    """What JSON says of the leaderboard."""
    return rounded(leaderboard.model_dump(mode="json", by_alias=True))


def to_json(leaderboard: Leaderboard) -> str:
    """The leaderboard as sorted, indented JSON."""
    return json.dumps(content(leaderboard), indent=1, sort_keys=True, allow_nan=False)


def write_leaderboard(path: str | Path, leaderboard: Leaderboard) -> None:
    """Write leaderboard.json; the same leaderboard gives the same bytes."""
    write_text(Path(path), to_json(leaderboard) + "\n")


def read_leaderboard(path: str | Path) -> Leaderboard:
    """Read leaderboard.json; LorafuseError naming the file and the field when it is not right."""
    advice = "Give the file that `lorafuse leaderboard build --out` wrote."
    read = read_bytes(Path(path), advice=advice)
    head = parsed(Path(path), read, "Build it again.", strict_json)
    if not isinstance(head, dict) or head.get("schema") != LEADERBOARD_SCHEMA:
        raise LorafuseError(f"{path}: schema: not {LEADERBOARD_SCHEMA}. {advice}")
    try:
        return Leaderboard.model_validate_json(read)
    except ValidationError as error:
        raise invalid(path, error) from error
