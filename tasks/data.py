"""Where the rows of a task come from: the hub, the embedded mini zoo, or a directory.

Every YAML names its dataset under `dataset_kwargs: dataset:` and points `custom_dataset` at `load`;
nothing else in the project decides on a data source.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from datasets import Dataset, concatenate_datasets, load_dataset
from pyarrow import Array, ChunkedArray, DataType, compute, parquet, types

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.mini_world.on_demand import generated, world_seed
from lorafuse_bench.tasks import quiet  # noqa: F401  its import sets the filters
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo, embedded_root

HUB = "hub"
MINI = "mini"
VARIABLE = "LORAFUSE_DATA"
TRAIN = "train"
_COMMIT = re.compile(r"@([0-9a-f]{40})/")
ANY, TEXT, VALUE, NESTED, PARTIAL = "any", "text", "value", "nested", "partial"
"""What a column holds, as a YAML says it: anything; text; any single value; lists or fields, whose single values
are text where they are of one type; lists or fields that may be null inside. None of them holds a null.
"""


class Source(NamedTuple):
    """A dataset as a YAML names it."""

    hub: str
    name: str | None = None
    columns: Mapping[str, str] = {}
    """Column to what it holds: any, text, value, nested or partial (see `ANY`)."""
    revision: str | None = None
    elsewhere: str | None = None
    """Another folder of a data directory whose rows serve where `folder` is missing."""
    where: str | None = None
    """Column of the rows `elsewhere` that must hold `name`."""
    only: Mapping[str, Any] | None = None
    """Column to the value, or the list of values, that rows must hold."""
    split_by: str | None = None
    """Column that says which split a row is of, where the data set has one split, `train`."""

    @property
    def folder(self) -> Path:
        """Its folder in a data directory: the hub id with `__` for `/`, then the configuration."""
        return Path(self.hub.replace("/", "__")) / (self.name or "default")


def resolve_source(data: str | None = None, zoo: str | None = None, method: str | None = None) -> str:
    """`hub`, `mini`, or an existing directory, in the order argument, environment, zoo, hub.

    `data` and `zoo` are what the user wrote in `--model_args` or `--metadata`. A `method` without a
    `zoo` runs on the embedded zoo, whose data is therefore meant.
    """
    source = (os.environ.get(VARIABLE) or None) if data is None else data
    if source is None and (zoo or method):
        source = Zoo.open(zoo or EMBEDDED).data_source
    if source is None or source == HUB:
        return HUB
    if source == MINI:
        return MINI
    if not source or not Path(source).is_dir():
        raise LorafuseError(
            f"data source '{source}' is not a directory. Set data= or {VARIABLE} to '{HUB}', '{MINI}',"
            f" or a directory of <hub__id>/<config>/<split>.parquet."
        )
    return str(Path(source))


class Splits(Mapping[str, Dataset]):
    """The splits of one dataset from one source, each read when it is first asked for.

    lm-eval indexes it by split name. `provenance` says which files served the splits read so far.
    """

    def __init__(self, dataset: Source, source: str) -> None:
        self.dataset = dataset
        self.source = source
        self.provenance: dict[str, str] = {}
        self._read: dict[str, Dataset] = {}

    def __getitem__(self, split: str) -> Dataset:
        if split not in self._read:
            rows, self.provenance[split] = self._load(split)
            self._read[split] = self._checked(rows, self.provenance[split])
        return self._read[split]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)

    @property
    def base(self) -> Path:
        """The data directory; only for `mini` and directories."""
        return embedded_root() / "data" if self.source == MINI else Path(self.source)

    @property
    def root(self) -> Path:
        """The folder below it that holds this dataset's parquet files."""
        own, elsewhere = self.base / self.dataset.folder, self.base / (self.dataset.elsewhere or "")
        return elsewhere if self.dataset.elsewhere and elsewhere.is_dir() and not own.is_dir() else own

    def _load(self, split: str) -> tuple[Dataset, str]:
        """The rows of a split that the task asks for, and what served them."""
        rows, file = self._served(TRAIN if self.dataset.split_by else split)
        wanted = dict(self.dataset.only or {})
        if self.dataset.split_by:
            wanted[self.dataset.split_by] = split
        for column, value in wanted.items():
            if column in rows.column_names:
                values = value if isinstance(value, list) else [value]
                held = compute.is_in(rows.data.column(column), pyarrow.array(values))
                rows = rows.select(compute.indices_nonzero(held).to_pylist())
        return rows, file

    def _served(self, split: str) -> tuple[Dataset, str]:
        if self.source == HUB:
            return self._from_hub(split)
        seed = None if self.root.is_dir() else world_seed(self.base)
        if seed is not None:
            return generated(self.dataset.folder.as_posix(), split, seed), f"generated, world {seed}"
        files = served_by(self.root, split)
        rows = concatenate_datasets([_read_parquet(file) for file in files])
        names = " + ".join(file.name for file in files)
        if self.root == self.base / self.dataset.folder:
            return rows, names
        if self.dataset.where:
            kept = [row for row, name in enumerate(rows[self.dataset.where]) if name == self.dataset.name]
            rows = rows.select(kept)
        return rows, f"{self.dataset.elsewhere}/{names}"

    def _from_hub(self, split: str) -> tuple[Dataset, str]:
        hub, name, revision = self.dataset.hub, self.dataset.name, self.dataset.revision
        try:
            rows = _of_hub(hub, name, revision, split)
        except Exception as error:  # network, authentication, renamed dataset: all need the same advice
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise LorafuseError(
                f"cannot load dataset '{hub}' ({name or 'default'}, split {split}) from the hub: {reason}."
                f" {_advice(hub, reason)}, or set data= or {VARIABLE} to '{MINI}' or a directory."
            ) from error
        return rows, f"{hub}@{revision or 'main'}"

    def _checked(self, rows: Dataset, file: str) -> Dataset:
        missing = [column for column in self.dataset.columns if column not in rows.column_names]
        where = self.dataset.hub if self.source == HUB else str(self.root / Path(file).name)
        if missing:
            raise LorafuseError(
                f"{where}: no column '{missing[0]}' (it has {', '.join(rows.column_names)})."
                f" Give the file the hub's columns: {', '.join(self.dataset.columns)}."
            )
        if len(rows) == 0:
            raise LorafuseError(f"{where}: no rows. Replace the file, or choose another data source.")
        for column, holds in self.dataset.columns.items():
            _check_column(rows.data.column(column), holds, f"{where}: column '{column}'")
        return rows


def _check_column(held: ChunkedArray, holds: str, column: str) -> None:
    """LorafuseError where a prompt or a target would show `None`, `nan`, or another kind of value than is due."""
    values = _values(held)
    found = sum(map(_nulls, held.chunks)) or (0 if holds == PARTIAL else sum(map(_nulls, values)))
    if found:
        raise LorafuseError(f"{column} is null in {found} places. Fill or remove these rows.")
    nested = types.is_nested(held.type)
    if holds in (NESTED, PARTIAL) and not nested:
        due = "lists or fields"
    elif holds in (TEXT, VALUE) and nested:
        due = "single values"
    elif holds in (TEXT, NESTED) and not any(_is_text(array.type) for array in values):
        due = "texts"
    else:
        return
    raise LorafuseError(f"{column} is of type {held.type}, and {due} are due. Give it the hub's type.")


def _values(held: ChunkedArray) -> list[Array]:
    """The parts of a column, and those inside its lists and fields at any depth."""
    layer = found = list(held.chunks)
    while layer:
        inner: list[Array] = []
        for array in layer:
            if types.is_struct(array.type):
                inner += array.flatten()
            elif types.is_nested(array.type):
                inner.append(array.flatten())
        layer = inner
        found = found + inner
    return found


def _nulls(array: Array) -> int:
    """Values that are missing; a column of texts whose texts were all lost is read as one of NaN."""
    return int(compute.sum(compute.is_null(array, nan_is_null=True)).as_py() or 0)


def _is_text(kind: DataType) -> bool:
    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind))


@lru_cache(4)
def _of_hub(hub: str, name: str | None, revision: str | None, split: str) -> Dataset:
    """A split of the hub's, opened once: the tasks of a family share it."""
    return load_dataset(hub, name, revision=revision, split=split)


def _advice(hub: str, reason: str) -> str:
    """What helps where the hub did not give a dataset."""
    if "gated" in reason.lower():
        return f"Accept its conditions at https://huggingface.co/datasets/{hub} and log in (hf auth login)"
    return "Check the connection"


def served_by(folder: Path, split: str) -> list[Path]:
    """The parquet files that hold `split` in a data directory.

    `<split>.parquet`, continued by `<split>_more.parquet`. A missing split is served by its
    `_standin` files. Where the training split is a stand-in, an evaluation split that has a stand-in
    too is served by that one: it is the one disjoint from the training rows.
    """
    if not folder.is_dir():
        raise LorafuseError(
            f"no {folder}: this data source lacks the dataset."
            f" Add it there, or choose another source with data= or {VARIABLE}."
        )

    def parts(stem: str) -> list[Path]:
        files = (folder / f"{stem}.parquet", folder / f"{stem}_more.parquet")
        return [file for file in files if file.is_file()]

    real, standin = parts(split), parts(f"{split}_standin")
    trained_on_standin = not parts(TRAIN) and bool(parts(f"{TRAIN}_standin"))
    files = standin if standin and (not real or trained_on_standin) else real
    if not files:
        present = ", ".join(sorted(file.name for file in folder.glob("*.parquet"))) or "no parquet files"
        raise LorafuseError(
            f"no {folder / split}.parquet (beside it: {present})."
            f" Add the split, or choose another source with data= or {VARIABLE}."
        )
    return files


def _read_parquet(file: Path) -> Dataset:
    """One parquet file in memory: unlike `load_dataset("parquet")` this writes no cache."""
    try:
        return Dataset(parquet.read_table(file))
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        reason = " ".join(str(error).split())[:200]
        raise LorafuseError(
            f"{file} is not readable parquet: {reason}. Download or build it again."
        ) from error


def rows_of(config: Any) -> Splits | None:
    """The rows of a task of lm-eval's own, from the source that its metadata asks for; None where lm-eval loads them.

    It does where the source is the hub, and where the task reads files of its own.
    """
    asked = {key: config.metadata.get(key) for key in ("data", "zoo", "method")}
    files = {"data_files", "data_dir"} & set(config.dataset_kwargs or {})
    if (
        callable(config.custom_dataset)
        or not config.dataset_path
        or files
        or Path(config.dataset_path).exists()
    ):
        return None
    source = resolve_source(**asked)
    return None if source == HUB else Splits(Source(config.dataset_path, config.dataset_name), source)


def provenance(task: Any) -> dict[str, str]:
    """Split to the files or the hub's revision that served it, of any task of lm-eval's."""
    if hasattr(task.dataset, "provenance"):
        return dict(task.dataset.provenance)
    given = (task.config.dataset_kwargs or {}).get("data_files")
    found = {}
    for split, rows in task.dataset.items():
        commits = {hub_commit(address) for address in rows.info.download_checksums or ()} - {None}
        files = given.get(split) if isinstance(given, Mapping) else given
        listed = [files] if isinstance(files, str) else files or []
        names = [f"{task.config.dataset_path}@{commit}" for commit in sorted(map(str, commits))]
        found[split] = ", ".join(names or [Path(file).name for file in listed]) or "not known"
    return found


def hub_commit(address: str) -> str | None:
    """The commit in the address of a file of the hub's."""
    found = _COMMIT.search(address)
    return found and found.group(1)


def load(
    dataset: Mapping[str, Any],
    data: str | None = None,
    zoo: str | None = None,
    method: str | None = None,
    **_: Any,
) -> Splits:
    """The `custom_dataset` of every task YAML.

    lm-eval calls it with `dataset` from the YAML and with everything in `--model_args` and
    `--metadata`; of the latter only `data`, `zoo` and `method` matter here. One nested `dataset` key
    keeps the YAML's words (`name`, `revision`) from colliding with the model's.
    """
    columns = dataset.get("columns", {})
    named = {
        **dataset,
        "columns": columns if isinstance(columns, Mapping) else dict.fromkeys(columns, ANY),
    }
    return Splits(Source(**named), resolve_source(data, zoo, method))
