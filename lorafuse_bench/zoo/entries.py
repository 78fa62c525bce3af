"""The fields of a zoo's manifest.json, and reading one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from lorafuse_bench.errors import LorafuseError, first_problem
from lorafuse_bench.files import read_json, strict_json
from lorafuse_bench.limits import MAX_SEED

NAME_LENGTH = 200


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("holds control characters")
    return text


def _inside(path: str) -> str:
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
        raise ValueError(f"'{path}' leads outside the zoo; only a folder below it may be named")
    return path


def _plain(name: str) -> str:
    if name[0] == "." or set(name) & set("/\\"):
        raise ValueError(f"'{name}' cannot name a folder: it begins with a dot or holds / or \\")
    return name


Name = Annotated[str, StringConstraints(min_length=1, max_length=NAME_LENGTH), AfterValidator(_printable)]
Folder = Annotated[Name, AfterValidator(_plain)]
"""A name that commands also give to folders that they write."""
Line = Annotated[str, StringConstraints(min_length=1, max_length=1000), AfterValidator(_printable)]
Inside = Annotated[Line, AfterValidator(_inside)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Files = dict[Inside, Sha256] | None
_FOLDER = TypeAdapter[str](Folder)
Bank = Literal["private", "mbc", "shared"]
_FILES = "Name to sha256 of all else that is read of it, see zoo/hashes.py; null in manifests of before 0.2"


def check_name(name: str, what: str) -> str:
    """The name; LorafuseError where it cannot be one in a manifest, or leads out of its folder."""
    try:
        return _FOLDER.validate_python(name)
    except ValidationError as error:
        raise LorafuseError(
            f"{what} '{name[:60]}' cannot be a name: it needs 1 to {NAME_LENGTH} printable characters without / and \\,"
            " the first no dot. Choose another."
        ) from error


def check_key(name: str, what: str) -> str:
    """The name of an expert or a task; LorafuseError also for one that no list of names and no option could hold."""
    if set(name) & set(",+") or name.startswith("@"):
        raise LorafuseError(
            f"{what} '{name[:60]}' cannot be a name: a comma or + stands between two, and @ before a bank's."
            " Choose another."
        )
    return check_name(name, what)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseEntry(_Strict):
    """The base model: a folder, a hub repository, or both."""

    path: Line = Field(description="Folder relative to the zoo, or a hub id such as Qwen/Qwen2-0.5B.")
    revision: Name | None = Field(default=None, description="Hub revision; null for a local folder.")
    sha256: Sha256 = Field(description="sha256 over the names and hashes of the base's *.safetensors files.")
    files: Files = Field(default=None, description=f"{_FILES}: sizes, tokenizer, templates, code.")
    name: Name | None = Field(default=None, description="What boards call it; null for its hub id or folder.")
    hub: Name | None = Field(
        default=None, description="Hub id of the same weights, for where the folder is not there."
    )
    make: Line | None = Field(
        default=None, description="Command that makes the folder, for where neither folder nor hub has it."
    )


class ExpertEntry(_Strict):
    """One LoRA expert in PEFT format."""

    name: Folder = Field(description="Unique name; also the folder under experts/.")
    tasks: tuple[Name, ...] = Field(
        min_length=1, description="Keys of the tasks it was trained on, such as sst2; mostly one."
    )
    bank: Bank = Field(
        default="private",
        description="Trained on one task (private), on a cluster of tasks (mbc), or on all (shared).",
    )
    rows: dict[Name, int] | None = Field(
        default=None,
        description="Task to how many of its first training rows it learnt from; null where that is not known.",
    )
    path: Inside = Field(description="Folder relative to the zoo.")
    sha256: Sha256 = Field(description="sha256 of adapter_model.safetensors.")
    files: Files = Field(default=None, description=f"{_FILES}: adapter_config.json.")
    base_sha256: Sha256 = Field(description="The base it was trained on; loading onto another is refused.")

    @model_validator(mode="before")
    @classmethod
    def _one_task(cls, given: Any) -> Any:
        """Manifests of before 0.2 name one `task`."""
        if isinstance(given, dict) and "task" in given and "tasks" not in given:
            return {**{key: given[key] for key in given if key != "task"}, "tasks": (given["task"],)}
        return given

    @property
    def task(self) -> str:
        """The first of its tasks, which is the only one of a private expert."""
        return self.tasks[0]


class FittedOn(_Strict):
    """What an artefact was learned on; any of it but documents differing at use makes it stale."""

    suite: Line = Field(description="Name of the suite, or its tasks joined by /.")
    tasks: tuple[Name, ...] = Field(description="Keys of the suite's tasks, in order.")
    experts: tuple[Sha256, ...] = Field(description="sha256 of the experts, in order.")
    base_sha256: Sha256 = Field(description="The base's weights.")
    rows_sha256: Sha256 = Field(
        description="The rows, fit and dev, as the model reads them: training/fit_rows.py."
    )
    documents_sha256: Sha256 | None = Field(
        default=None,
        description="The documents of all rows fitted on, by which `lorafuse fit` keeps a fit; null for older ones.",
    )
    rows: int | None = Field(default=None, ge=1, description="Rows per task to fit on at most; null for all.")
    dev: int = Field(ge=0, description="Last training rows per task kept for choosing, at most a fifth.")


class ArtefactEntry(_Strict):
    """One thing learned on frozen experts: routers, weights, coefficients, gates, a loss matrix."""

    name: Name = Field(description="Unique name; also the folder under fits/, or routers/.")
    method: Name = Field(description="The fusion method it belongs to, such as moa.")
    options: dict[str, Any] = Field(
        default={}, description="The method's options that shape what is learned."
    )
    path: Inside = Field(description="Folder relative to the zoo.")
    file: Inside = Field(
        default="router.safetensors", description="The file with its tensors, in that folder."
    )
    sha256: Sha256 = Field(description="sha256 of that file.")
    experts: tuple[Name, ...] = Field(description="Expert names in the order of its tensors.")
    settings: dict[str, Any] = Field(description="How it was learned: seed, steps, the rates tried, ...")
    fitted_on: FittedOn | None = Field(
        default=None, description="What it was learned on; null for routers of before 0.2, which do not say."
    )
    adapters: tuple[ExpertEntry, ...] = Field(
        default=(),
        description="Experts trained jointly with it; empty when it serves the zoo's own.",
    )

    @property
    def kind(self) -> str:
        """`fit`, or `router` where it does not say what it was learned on."""
        return "fit" if self.fitted_on else "router"

    @model_validator(mode="before")
    @classmethod
    def _told_by_settings(cls, given: Any) -> Any:
        """Routers of before 0.2 have their options among the settings."""
        if isinstance(given, dict) and "options" not in given and isinstance(given.get("settings"), dict):
            had = given["settings"]
            options = {new: had[old] for old, new in _ROUTER_OPTIONS.items() if old in had}
            return {**given, "options": options}
        return given


_ROUTER_OPTIONS = {"pool": "pooling", "training": "training"}


class AdapterEntry(_Strict):
    """One multi-task adapter, trained on the base for all tasks of a suite at once."""

    name: Name = Field(description="Unique name: the folder under adapters/, such as moore/mtl7.")
    method: Name = Field(description="The method it belongs to, such as moore.")
    options: dict[str, Any] = Field(description="The method's options that it was trained with.")
    trained_on: str = Field(description="Name of the suite it was trained on.")
    tasks: tuple[Name, ...] = Field(description="Task keys in the order of their ids.")
    path: Inside = Field(description="Folder relative to the zoo.")
    sha256: Sha256 = Field(description="sha256 of adapter.safetensors.")
    base_sha256: Sha256 = Field(description="The base it was trained on; loading onto another is refused.")
    parameters: int = Field(ge=0, description="Numbers trained.")
    settings: dict[str, Any] = Field(description="What it was trained with: steps, rows, seed, ...")


class Clusters(_Strict):
    """Groups of similar private experts, as found by `lorafuse zoo cluster`."""

    members: tuple[tuple[Name, ...], ...] = Field(min_length=1, description="Expert names of each cluster.")
    experts: dict[Name, Sha256] = Field(description="Hash of each expert as it was when they were clustered.")
    seed: int = Field(ge=0, le=MAX_SEED, description="Seed of KMeans and of the SVD.")
    svd: int | None = Field(
        default=None, ge=1, description="Dimensions kept by a truncated SVD; null for all of them."
    )

    @property
    def lines(self) -> list[str]:
        """A line for each cluster."""
        return [f"cluster {index}: {', '.join(group)}" for index, group in enumerate(self.members)]


class Manifest(_Strict):
    """manifest.json of a zoo."""

    schema_: Literal["lorafuse.zoo/1"] = Field("lorafuse.zoo/1", alias="schema")
    name: Name = Field(description="Name of the zoo; zoos that differ only in seed share it.")
    seed: int = Field(ge=0, le=MAX_SEED, description="Seed that the zoo was built from.")
    base: BaseEntry
    init: Literal["shared", "independent"] = Field(
        description="Whether the experts started from one LoRA initialisation: merge-before needs shared."
    )
    experts: tuple[ExpertEntry, ...] = ()
    artefacts: tuple[ArtefactEntry, ...] = ()
    adapters: tuple[AdapterEntry, ...] = ()
    clusters: Clusters | None = Field(default=None, description="Which private experts are alike.")
    data: Line = Field(description="Data source of training: hub, mini, or a folder relative to the zoo.")
    max_length: int | None = Field(
        default=None,
        ge=8,
        description="Tokens of prompt and answer at most, in training and, unless told otherwise, in evaluation;"
        " null for the base's own length.",
    )
    training: dict[str, Any] = Field(default_factory=dict, description="Settings the zoo was trained with.")

    @model_validator(mode="before")
    @classmethod
    def _routers(cls, given: Any) -> Any:
        """Manifests of before 0.2 know routers alone."""
        if isinstance(given, dict) and "routers" in given and "artefacts" not in given:
            rest = {key: value for key, value in given.items() if key != "routers"}
            return {**rest, "artefacts": given["routers"]}
        return given

    @field_validator("experts", "artefacts", "adapters")
    @classmethod
    def _distinct(cls, entries: tuple[Any, ...]) -> tuple[Any, ...]:
        name, times = next(iter(Counter(entry.name for entry in entries).most_common(1)), ("", 0))
        if times > 1:
            raise ValueError(f"{times} of them are named '{name}'")
        return entries


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file; LorafuseError with the first field that is wrong."""
    remedy = "Rebuild or correct the manifest."
    try:
        return Manifest.model_validate_json(json.dumps(read_json(path, remedy, strict_json)))
    except ValidationError as error:
        raise LorafuseError(f"{path}: {first_problem(error)}. {remedy}") from error
