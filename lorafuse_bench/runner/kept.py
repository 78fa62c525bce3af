"""Whether a cell on disk can be kept: it must be there, complete, and made from the same inputs."""

from __future__ import annotations

import gzip
import json
import shutil
import zlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results import cell_files, schema
from lorafuse_bench.leaderboards.results.difference import first_difference
from lorafuse_bench.leaderboards.results.layout import items_path
from lorafuse_bench.leaderboards.results.samples import samples_path
from lorafuse_bench.leaderboards.results.schema import Result
from lorafuse_bench.locks import LOCK, held
from lorafuse_bench.tasks import catalogue
from lorafuse_bench.tasks.facts import Suite, SuiteTask
from lorafuse_bench.tasks.row_files import row_files

_ASKED_FOR = ("suite", "method", "zoo", "base", "experts", "data", "limit", "max_length", "num_fewshot")
_CHUNK_BYTES = 1 << 20
_BLOCKS = ".blocks"


def why_run(path: Path, draft: Result, suite: Suite) -> str | None:
    """Why the cell at `path` has to be run, None where it is kept; LorafuseError when it is of other inputs."""
    for file in (path, items_path(path), samples_path(path)):
        if file.is_dir():
            raise LorafuseError(
                f"{file} is a folder where a result is due. Remove it, or name another --out."
            )
    if not path.exists():
        return "not run yet"
    try:
        found = cell_files.read_result(path)
        check_same(path, found, draft)
        _check_defined(path, found, suite)
        if found.schema_ != draft.schema_:
            return f"of the older format {found.schema_}"
    except _OtherInputsError:
        raise
    except LorafuseError as error:
        return f"damaged: {error}"
    return _damage(path)


def edited_since(path: Path, suite: Suite, source: str) -> list[Path]:
    """Files newer than the cell at `path`: the suite's, but for those of packages, and those that served its rows."""
    packages = (Path(catalogue.__file__).parent, catalogue.lm_eval_folder(), *map(Path, catalogue.packaged()))
    made = path.stat().st_mtime_ns
    own = {file for file in suite.files.values() if not any(map(file.is_relative_to, packages))}
    newer = {file for file in own | row_files(suite, source) if file.stat().st_mtime_ns > made}
    served = json.dumps(cell_files.read_result(path).data.splits) if newer - own else ""
    return sorted(file for file in newer if file in own or file.name in served)


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Reserve the cell at `path` for this run; the context gets False while another run evaluates it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(f".{path.name}{LOCK}")) as mine:
        yield mine


def blocks_folder(path: Path) -> Path:
    """Where the answers of the unfinished cell at `path` are, in a folder for each of what it was made of."""
    return path.with_name(f".{path.name}{_BLOCKS}")


def remove_blocks(path: Path) -> None:
    """Remove the answers of the cell at `path`, which stands on the disk."""
    shutil.rmtree(blocks_folder(path), ignore_errors=True)


class _OtherInputsError(LorafuseError):
    pass


def check_same(path: Path, found: Result, draft: Result) -> None:
    """LorafuseError when a finished cell was made from other inputs than the plan's."""
    options = found.method.options.keys() & draft.method.options.keys()
    _check_equal(path, _asked(found, options), _asked(draft, options))


def _check_equal(path: Path, made_of: dict[str, object], asked: dict[str, object]) -> None:
    difference = first_difference(made_of, asked)
    if difference:
        have, wanted = difference.texts()
        raise _OtherInputsError(
            f"{path} was made with another {difference.where.partition('.')[0]} than asked for now"
            f" ({difference.where}: {have}, now {wanted}). Choose another --out, or remove the file."
        )


def _asked(result: Result, options: AbstractSet[str]) -> dict[str, object]:
    """What was asked for. A method's code may differ: its version says when its outputs do.

    An option that only one of them has came with another version of the package; where the labels are alike, it has
    its default.
    """
    fields = result.model_dump(mode="json", include=set(_ASKED_FOR))
    return fields | {
        "settings": result.told.model_dump(mode="json"),
        "data": result.data.source,
        "method": fields["method"]
        | {"source_sha256": "", "options": {name: result.method.options[name] for name in options}},
    }


def _check_defined(path: Path, found: Result, suite: Suite) -> None:
    """LorafuseError when its suite had other tasks then, or one of them another main metric or version."""
    if found.definition is None:
        return
    versions = {key: task.version for key, task in found.tasks.items()}
    was = {task.key: _says(task, versions.get(task.key)) for task in found.definition.tasks}
    now = {key: _says(task, task.version or versions.get(key)) for key, task in suite.tasks.items()}
    _check_equal(path, {"suite": was}, {"suite": now})


def _says(task: SuiteTask | schema.SuiteTask, version: str | None) -> dict[str, str | None]:
    return {"metric": task.metric, "direction": task.direction, "unit": task.unit, "version": version}


def _damage(path: Path) -> str | None:
    """What is wrong with the files beside a result; samples may be missing, but not damaged."""
    try:
        cell_files.read_cell(path)
    except LorafuseError as error:
        return f"damaged: {error}"
    samples = samples_path(path)
    try:
        if samples.exists():
            with gzip.open(samples) as file:
                while file.read(_CHUNK_BYTES):
                    pass
    except (OSError, EOFError, zlib.error) as error:
        return f"damaged: {samples}: {error}"
    return None
