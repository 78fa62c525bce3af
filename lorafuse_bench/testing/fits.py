"""Fits: made twice they are the same, stopped they go on, no row is read that is kept from them, and they go stale."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from lorafuse_bench import artefacts
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.fusion.fitted import Fitted
from lorafuse_bench.loading import load_model
from lorafuse_bench.tasks.data import MINI
from lorafuse_bench.testing.check import HOLDS, check
from lorafuse_bench.testing.files import toy_folder
from lorafuse_bench.testing.subject import DoesNotApplyError, Subject, distribution, gap, prompts
from lorafuse_bench.testing.toys import TASKS
from lorafuse_bench.training.fit_rows import check_rows
from lorafuse_bench.training.fitting import FitSettings, fit
from lorafuse_bench.zoo.manifest import Zoo, embedded_root

SUITE = "/".join(TASKS)
SETTINGS = FitSettings(steps=2, batch_size=2, rates=(0.1,), rows=4, dev=2)
"""One rate, so that there is nothing for dev rows to choose."""

TRAIN, EVALUATED = 12, 4
"""Rows of each split of the toys; dev rows are the last of the first."""

Planted = Literal["dev", "evaluated"]
FILES = {
    "nyu-mll__glue/sst2": "validation",
    "nyu-mll__glue/mnli": "validation_matched",
    "rajpurkar__squad/plain_text": "validation",
}
"""Folder of each task's rows -> the split that is evaluated."""


@contextmanager
def toy_zoo(planted: Planted | None = None) -> Iterator[Zoo]:
    """A zoo of the toys, with rows of its own; `planted`: other rows in place of these."""
    with tempfile.TemporaryDirectory(prefix="lorafuse-fits-") as folder:
        root = Path(folder) / "zoo"
        shutil.copytree(toy_folder(), root)
        zoo = Zoo(root, Zoo.open(root).manifest.model_copy(update={"data": _rows(planted).name}))
        zoo.save()
        yield zoo


@cache
def _rows(planted: Planted | None) -> tempfile.TemporaryDirectory[str]:
    """A data directory, for as long as the process lives."""
    folder = tempfile.TemporaryDirectory(prefix="lorafuse-rows-")
    data = Path(folder.name)
    for name, evaluated in FILES.items():
        (data / name).mkdir(parents=True)
        _write(data, f"{name}/train.parquet", TRAIN, SETTINGS.dev if planted == "dev" else 0)
        _write(data, f"{name}/{evaluated}.parquet", EVALUATED, EVALUATED if planted == "evaluated" else 0)
    return folder


def _write(data: Path, file: str, rows: int, planted: int) -> None:
    """The first rows of the embedded world's, the last `planted` of them others."""
    table = pq.read_table(embedded_root() / "data" / file)
    kept = [*range(rows - planted), *range(rows, rows + planted)]
    pq.write_table(table.take(kept), data / file)


def made(method: Fitted, zoo: Zoo, report: Any = lambda line: None) -> bytes:
    """The file of a fit, made in `zoo`; DoesNotApplyError where the method refuses the toys."""
    try:
        entry = fit(
            method, SUITE, zoo, zoo.data_source, SETTINGS, report=report, device="cpu", dtype="float32"
        )
    except LorafuseError as error:
        raise DoesNotApplyError(f"it refuses this: {error}") from error
    return (zoo.root / entry.path / entry.file).read_bytes()


@lru_cache(1)
def first(method: Fitted) -> tuple[bytes, int]:
    """The file of a fit, and how many lines it reported on the way."""
    lines: list[str] = []
    with toy_zoo() as zoo:
        return made(method, zoo, lines.append), len(lines)


def learns(method: FusionMethod) -> Fitted:
    """The method, as one that is fitted; DoesNotApplyError for all others."""
    if not isinstance(method, Fitted) or "fit" not in method.needed:
        raise DoesNotApplyError("it learns nothing")
    if method.made_by("ZOO") is not None:
        raise DoesNotApplyError(f"it is learned by {method.made_by('ZOO')}")
    return method


@check
def fits_twice_to_the_same_bytes(subject: Subject) -> None:
    """Fitted again on the same rows it gives the same file, wherever the global generators stand."""
    method = learns(subject.method)
    expected, _ = first(method)
    kept = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        with toy_zoo() as zoo:
            again = made(method, zoo)
    finally:
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])
    assert again == expected, (
        "a second fit has other bytes: draw from a generator of fitting.seed, keep nothing"
    )


class StoppedError(Exception):
    """As if the process had been killed."""


@check
def a_stopped_fit_goes_on_to_the_same_bytes(subject: Subject) -> None:
    """A fit that is killed on its way and started again ends in the file of one that was not."""
    method = learns(subject.method)
    expected, lines = first(method)
    if not lines:
        raise DoesNotApplyError("it is done before it says anything")
    for stop in sorted({1 + lines // 2, lines}):
        said = iter(range(1, lines + 1))

        def kill(line: str, said: Iterator[int] = said, stop: int = stop) -> None:
            if next(said, 0) == stop:
                raise StoppedError

        with toy_zoo() as zoo:
            with suppress(StoppedError):
                made(method, zoo, kill)
            assert made(method, Zoo.open(zoo.root)) == expected, (
                f"stopped at line {stop} of {lines} and started again it ends in other bytes"
            )


@check
def a_fit_reads_no_dev_rows(subject: Subject) -> None:
    """Other dev rows may change which rate is chosen, but not what is learned at a given rate."""
    method = learns(subject.method)
    if method.learns_from_dev is not None:
        raise DoesNotApplyError(f"declared: {method.learns_from_dev}")
    assert _with(method, "dev") == first(method)[0], (
        "other dev rows change what it learns, and it does not declare learns_from_dev"
    )


@check
def a_fit_reads_no_evaluated_rows(subject: Subject) -> None:
    """Other rows in the evaluated split do not change what is learned."""
    method = learns(subject.method)
    assert _with(method, "evaluated") == first(method)[0], "other evaluated rows change what it learns"


def _with(method: Fitted, planted: Planted) -> bytes:
    with toy_zoo(planted) as zoo:
        return made(method, zoo)


@check
def options_at_use_shape_no_fit(subject: Subject) -> None:
    """Options that are declared to matter only in use (`at_use`) do not change what is learned."""
    method = learns(subject.method)
    hints = get_type_hints(type(method))
    for name in sorted(method.at_use):
        for value in _others(hints[name], getattr(method, name)):
            other = replace(method, **{name: value})
            if "fit" in other.needed:
                with toy_zoo() as zoo:
                    assert made(other, zoo) == first(method)[0], f"{name}={value} changes what is learned"


def _others(hint: Any, value: Any) -> list[Any]:
    """One other value of an option: another of its words, or the number before or after."""
    words = get_args(hint) if get_origin(hint) is Literal else ()
    if isinstance(value, int) and not isinstance(value, bool):
        return [value - 1 if value > 1 else value + 1]
    if int in get_args(hint):
        return [1]
    return [word for word in words if word != value][:1]


@check
def stale_fits_are_refused(subject: Subject) -> None:
    """A fit is refused where an expert, the base, the rows or the experts' order are not those it was made on."""
    method = learns(subject.method)
    with toy_zoo() as zoo:
        made(method, zoo)
        zoo = Zoo.open(zoo.root)
        pool = ExpertPool.from_zoo(zoo)
        entry = artefacts.entry_of(zoo, method, pool)
        assert _refused(lambda: check_rows(zoo, entry, MINI)), "a fit on other rows is accepted"
        base = zoo.manifest.base.model_copy(update={"sha256": "0" * 64})
        other = Zoo(zoo.root, zoo.manifest.model_copy(update={"base": base}))
        assert _refused(lambda: artefacts.entry_of(other, method, pool)), "a fit on another base is accepted"
        one, *rest = pool.experts
        changed = ExpertPool([replace(one, sha256="0" * 64), *rest])
        assert _refused(lambda: artefacts.entry_of(zoo, method, changed)), (
            "a fit on another expert is accepted"
        )
        turned = ExpertPool(pool.experts[::-1])
        if not _refused(lambda: artefacts.entry_of(zoo, method, turned)):
            distance = gap(_used(method, zoo, turned), _used(method, zoo, pool))
            assert distance < HOLDS, (
                f"it serves the experts in another order, and then differs by {distance:.2g} nats"
            )


def _refused(use: Any) -> bool:
    try:
        use()
    except LorafuseError:
        return True
    return False


def _used(method: Fitted, zoo: Zoo, pool: ExpertPool) -> Tensor:
    model = FusedModel(load_model(zoo.base_folder()), zoo, pool)
    model.use(method)
    return distribution(model, *prompts())
