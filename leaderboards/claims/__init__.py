"""The papers' findings as data: what is compared, what they printed, and where.

One YAML file per paper. A finding compares two sides, each a method on a suite, over the mean of some tasks;
`verdicts` says of measured boards whether it holds there. A finding that needs more than boards names the
analysis that measures it, and where its result has the two sides.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Literal, Self

import yaml
from pydantic import Field, JsonValue, ValidationError, model_validator

from lorafuse_bench.leaderboards.results.made_of import Strict
from lorafuse_bench.leaderboards.results.schema import invalid

Bank = Literal["private", "mbc", "shared"]


class Side(Strict):
    """One side of a comparison."""

    method: str = Field(description="Method label, such as concat:scaling=false.")
    suite: str = Field(description="Suite whose board has it.")
    bank: Bank = Field(default="private", description="Bank of the experts that it fuses.")

    def on(self, zoo: str) -> tuple[str, str]:
        """Suite and zoo of its board: a bank's board is that of `ZOO@BANK`."""
        return self.suite, zoo if self.bank == "private" else f"{zoo}@{self.bank}"


class Reading(Strict):
    """Where an analysis's result has the two sides: keys that lead to a table of numbers by name."""

    left: tuple[str, ...] = Field(min_length=1, description="Keys that lead to the left side's table.")
    right: tuple[str, ...] = Field(
        default=(), description="Keys that lead to the right side's, of the same names; empty for zero."
    )


class Figures(Strict):
    """What the paper printed for the two sides."""

    model: str = Field(default="", description="Base model; empty where the paper's figure is over several.")
    left: float | None = Field(default=None, description="As printed; null where only the right is.")
    right: float | None = Field(default=None, description="As printed; null where only the left is.")
    unit: str = Field(description="Unit as printed: fraction of the oracle, percent, nats/token, ...")
    table: str = Field(description="File of the paper's printed values that holds them.")
    left_at: tuple[str | int, ...] = Field(default=(), description="Keys that lead to `left` in that file.")
    right_at: tuple[str | int, ...] = Field(default=(), description="Keys that lead to `right` in it.")


class Claim(Strict):
    """One finding."""

    id: str = Field(description="Unique in the file; stable.")
    finding: str = Field(description="The finding in one sentence of ours.")
    source: str = Field(description="Table, figure or section.")
    left: Side | None = Field(default=None, description="What is said to be better, or like the right side.")
    right: Side | None = Field(default=None, description="What it is compared with.")
    relation: Literal["over", "about"] = Field(
        default="over", description="over: left scores higher; about: they differ by less than `margin`."
    )
    margin: float = Field(default=0.05, gt=0, description="For about: the largest difference that is none.")
    tasks: tuple[str, ...] = Field(default=(), description="Task keys; empty for all that both boards count.")
    analysis: str | None = Field(
        default=None, description="The analysis that measures it, where boards cannot."
    )
    reading: Reading | None = Field(
        default=None,
        description="What to compare in that analysis's result; null where no two tables say it.",
    )
    reported: tuple[Figures, ...] = Field(default=(), description="Empty where only a picture is printed.")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.left is None) != (self.right is None):
            raise ValueError("left and right go together")
        if (self.left is None) == (self.analysis is None):
            raise ValueError("a claim has either two sides or an analysis")
        if self.reading and not self.analysis:
            raise ValueError("reading goes with an analysis")
        return self

    def on(self, suite: str) -> Claim:
        """The same finding with both sides on another suite."""
        sides = {name: getattr(self, name).model_copy(update={"suite": suite}) for name in ("left", "right")}
        return self.model_copy(update=sides)

    @property
    def sides(self) -> tuple[Side, ...]:
        return (self.left, self.right) if self.left and self.right else ()


class Paper(Strict):
    """All findings of one paper."""

    name: str = Field(description="File name without its ending.")
    title: str = Field(description="Title of the paper.")
    note: str | None = Field(default=None, description="What a reader of the verdicts must know.")
    stand_ins: dict[str, tuple[str, ...]] = Field(
        default={}, description="Suite to those like it on which its findings are held too."
    )
    claims: tuple[Claim, ...] = Field(min_length=1, description="The findings.")

    def forms(self) -> list[list[Claim]]:
        """The findings as printed, and again for every suite that can replace the one of both sides."""
        like = dict.fromkeys(suite for suites in self.stand_ins.values() for suite in suites)
        return [
            list(self.claims),
            *([c.on(suite) for c in self.claims if self._stands_in(suite, c)] for suite in like),
        ]

    def _stands_in(self, suite: str, claim: Claim) -> bool:
        return bool(claim.sides) and all(suite in self.stand_ins.get(side.suite, ()) for side in claim.sides)

    @model_validator(mode="after")
    def _unique(self) -> Self:
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) < len(ids):
            raise ValueError(f"id '{max(ids, key=ids.count)}' stands twice")
        return self


def load(name: str) -> Paper:
    """The findings of one paper by its file name; LorafuseError naming file and field when it is not right."""
    source = files(__name__) / f"{name}.yaml"
    content: JsonValue = yaml.safe_load(source.read_text(encoding="utf-8"))
    try:
        return Paper.model_validate({"name": name, **content} if isinstance(content, dict) else content)
    except ValidationError as error:
        raise invalid(f"claims/{name}.yaml", error) from error


def papers() -> list[Paper]:
    """Every paper's findings, by file name."""
    found = (entry.name for entry in files(__name__).iterdir())
    return [load(name.removesuffix(".yaml")) for name in sorted(found) if name.endswith(".yaml")]
