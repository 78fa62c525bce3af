"""Writing and reading a cell: a result file and, beside it, the compressed sidecar of its items."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import strict_json, write_bytes, write_json
from lorafuse_bench.leaderboards.results import document_hashes, formats, run_ids
from lorafuse_bench.leaderboards.results.item_checks import check_items
from lorafuse_bench.leaderboards.results.layout import cell_path, items_path
from lorafuse_bench.leaderboards.results.plausible import check_place, check_plausible
from lorafuse_bench.leaderboards.results.reading import inflate, parsed, read_bytes
from lorafuse_bench.leaderboards.results.schema import Items, Result, invalid, run_id

READABLE = tuple(run_ids.IDENTITY)
_HASH_BYTES, _METRIC_BYTES = 512, 300  # of one item in a sidecar, with room for another way to write it


def write_cell(out: str | Path, result: Result, items: Items, hashes_apart: bool = False) -> Path:
    """Write a finished cell and return the path of its result file.

    The result is written last: where it exists, the cell is whole. `hashes_apart` keeps the documents'
    hashes once for all cells below `out`. LorafuseError when the items do not bear the result out.
    """
    path = cell_path(out, result.suite, result.zoo.name, result.zoo.seed, result.method.label)
    check_plausible(path, result)
    check_items(path, result, items)
    if hashes_apart:
        for held in items.root.values():
            document_hashes.write_hashes(Path(out), held.doc_hashes)
        items = Items.model_construct({key: held.with_hashes(()) for key, held in items.root.items()})
    write_bytes(items_path(path), gzip.compress(items.content(), mtime=0))
    write_json(path, result.content())
    return path


def read_result(path: str | Path) -> Result:
    """Read a result file; LorafuseError naming the file and the field when it is not right."""
    content = read_bytes(Path(path))
    head = parsed(Path(path), content, "Run the cell again.", strict_json)
    if not isinstance(head, dict) or head.get("schema") not in READABLE:
        said = head.get("schema") if isinstance(head, dict) else type(head).__name__
        raise LorafuseError(
            f"{path}: schema: '{said}' is unknown; this version reads {' and '.join(READABLE)}."
            " Give a folder of result files, or use the version that wrote them."
        )
    try:
        result = Result.model_validate_json(json.dumps(formats.migrated(head)), strict=True)
    except ValidationError as error:
        raise invalid(path, error) from error
    if result.run_id != run_id(result):
        raise LorafuseError(
            f"{path}: run_id: not the hash of the inputs; the file was altered. Run it again."
        )
    return result


def read_cell(path: str | Path) -> tuple[Result, Items]:
    """Read a result and its items, which must bear it out; LorafuseError naming the file and the field."""
    result = read_result(path)
    check_place(Path(path), result)
    check_plausible(path, result)
    sidecar = items_path(Path(path))
    content = inflate(sidecar, _most_bytes(result), "Run the cell again.")
    try:
        kept = Items.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise invalid(sidecar, error) from error
    items = _with_hashes(Path(path), result, kept)
    check_items(sidecar, result, items)
    found = hashlib.sha256(content).hexdigest() if items is kept else items.sha256()
    if result.items_sha256 != found:
        raise LorafuseError(
            f"{sidecar}: not the items of {path} (items_sha256): one of them was altered. Run the cell again."
        )
    return result, items


def _most_bytes(result: Result) -> int:
    """What the items of a result take at most: a hash, and ten numbers of each metric, for each."""
    rows = sum(task.n * (_HASH_BYTES + len(task.metrics) * _METRIC_BYTES) for task in result.tasks.values())
    return rows + sum(_HASH_BYTES * (1 + len(task.metrics)) for task in result.tasks.values()) + _HASH_BYTES


def _with_hashes(path: Path, result: Result, items: Items) -> Items:
    """The items with the hashes that their folder keeps apart; the very same object where it keeps none."""
    apart = {key for key, held in items.root.items() if key in result.tasks and not held.doc_hashes}
    if not apart:
        return items
    out = path.absolute().parent.parent.parent  # as in `cell_path`
    return Items.model_construct(
        {
            key: held.with_hashes(
                document_hashes.read_hashes(out, result.tasks[key].docs_sha256, result.tasks[key].n)
            )
            if key in apart
            else held
            for key, held in items.root.items()
        }
    )
