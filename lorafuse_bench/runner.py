"""The grid of (method, suite) cells on one loaded base: plan, run, keep what is finished."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel, adapter_entry
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.identity import environment, identity, routers, source_name
from lorafuse_bench.leaderboards import schema
from lorafuse_bench.leaderboards.lm_eval_results import items_of, seeds_of, task_of
from lorafuse_bench.leaderboards.samples import Sample, of_lm_eval, write_samples
from lorafuse_bench.memory import peak_bytes, reset_peak
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.tasks import consent
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.suites import OBLIVION, OPTIONS, leaf_tasks, representative, suite_tasks, task_key
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo

_LOGGER = logging.getLogger(__name__)
_COMMIT = re.compile(r"@([0-9a-f]{40})/")


@dataclass(frozen=True)
class Plan:
    """What to run: every method on every suite, with the experts of one zoo.

    `methods=None` takes all that the zoo can do, and leaves out with a word those that do not fit its experts.
    `experts=None` takes, for each suite, the zoo's experts of that suite's tasks: as in the papers, five
    experts are fused for five tasks. For a suite of oblivion, which no expert was trained for, it takes all.
    """

    methods: Sequence[FusionMethod] | None
    suites: Sequence[str]
    out: Path
    zoo: str | Path = EMBEDDED
    experts: Sequence[str] | None = None
    data: str | None = None
    limit: int | None = None
    max_length: int | None = None
    batch_size: int = 32
    dtype: str = "float32"
    device: str = "cuda"
    run_code: bool = False
    """Consent to run the code that models write, where a suite has such tasks."""


def all_methods(zoo: Zoo) -> list[FusionMethod]:
    """Every registered method with its default options whose needs the zoo meets, and its trained adapters."""
    trained = {router.method for router in zoo.manifest.routers}
    ready = [
        registry.create(name)
        for name, cls in registry.methods().items()
        if "adapter" not in cls.needs
        and ("router" not in cls.needs or name in trained)
        and (zoo.manifest.experts or not cls.fuses_experts)
    ]
    adapters: dict[str, FusionMethod] = {}
    for entry in zoo.manifest.adapters:
        method = registry.create(entry.method, entry.options)
        if method.label() in adapters:  # of another suite
            method = registry.create(entry.method, {**entry.options, "trained_on": entry.trained_on})
        adapters[method.label()] = method
    return ready + list(adapters.values())


def run(plan: Plan, report: Callable[[str], None] = _LOGGER.info) -> list[Path]:
    """Run the plan's unfinished cells and return the result files of all.

    A finished cell is kept and not run again; one whose inputs differ from the plan's is refused
    before anything runs. Raises LorafuseError for bad input.
    """
    consent.ask((leaf for suite in plan.suites for leaf in leaf_tasks(suite)), plan.run_code)
    zoo = Zoo.open(plan.zoo)
    source = resolve_source(plan.data, str(plan.zoo))
    methods = all_methods(zoo) if plan.methods is None else plan.methods
    names = {suite: _experts(plan, zoo, suite, methods) for suite in plan.suites}
    pools = {suite: ExpertPool.from_zoo(zoo, names[suite]) for suite in plan.suites}
    cells = [(method, suite) for suite in plan.suites for method in methods]
    misfits = {cell: error for cell in cells if (error := _misfit(zoo, cell[0], pools[cell[1]]))}
    if plan.methods is not None and misfits:
        raise LorafuseError("\n".join(dict.fromkeys(misfits.values())))
    for (method, suite), error in misfits.items():
        report(f"{suite} {method.label()}: left out, {error}")
    cells = [cell for cell in cells if cell not in misfits]
    paths = [_path(plan, zoo, method, suite) for method, suite in cells]
    pending = []
    for (method, suite), path in zip(cells, paths, strict=True):
        if path.is_file():
            _check_same(path, _inputs(plan, zoo, method, suite, pools[suite], source))
            report(f"{suite} {method.label()}: kept {path}")
        else:
            pending.append((method, suite))
    if not pending:
        return paths
    lm = LorafuseLM(
        "base",
        zoo=plan.zoo,
        data=plan.data,
        batch_size=plan.batch_size,
        device=plan.device,
        dtype=plan.dtype,
        max_length=plan.max_length,
    )
    for position, (method, suite) in enumerate(pending, start=1):
        report(f"[{position}/{len(pending)}] {suite} {method.label()}")
        lm.fused = FusedModel.of(lm.fused, pools[suite])
        path = run_cell(plan, zoo, lm, method, suite, source)
        report(f"[{position}/{len(pending)}] {suite} {method.label()}: {path}")
    return paths


def run_cell(plan: Plan, zoo: Zoo, lm: LorafuseLM, method: FusionMethod, suite: str, source: str) -> Path:
    """Evaluate one method on one suite and write its result and items."""
    device = torch.device(lm.device)
    reset_peak(device)
    lm.use(method)
    manager = TaskManager(
        include_defaults=False, include_path=str(files("lorafuse_bench.tasks")), metadata={"data": source}
    )
    loaded = manager.load(list(leaf_tasks(suite)))["tasks"]
    start = time.perf_counter()
    output = simple_evaluate(
        model=lm,
        tasks=list(loaded.values()),
        task_manager=manager,
        limit=plan.limit,
        log_samples=True,
        bootstrap_iters=0,
        confirm_run_unsafe_code=plan.run_code,
    )
    seconds = time.perf_counter() - start
    if output is None:
        raise LorafuseError(
            "only the first of several processes holds results. Run `lorafuse run` in one process."
        )
    samples = output["samples"]
    items = schema.Items({key: items_of(samples, key) for key in suite_tasks(suite)})
    revisions = {task_key(name): _commit(task) for name, task in loaded.items()}
    inputs = _inputs(plan, zoo, method, suite, lm.fused.pool, source)
    inputs["data"]["splits"] = _splits(loaded)
    result = schema.Result.of(
        items,
        **inputs,
        routers=routers(lm.fused),
        seeds=seeds_of(output["config"]),
        cost={
            "fuse_seconds": lm.fused.fuse_seconds,
            "eval_seconds": seconds,
            "tokens_per_second": count_tokens(lm, samples) / seconds,
            "peak_bytes": peak_bytes(device),
            "extra_parameters": lm.fused.extra_parameters,
        },
        environment=environment(device),
        tasks={
            key: task_of(suite, key, output, items.root[key], revisions[key]) for key in suite_tasks(suite)
        },
    )
    write_samples(_path(plan, zoo, method, suite), _texts(suite, samples))
    return schema.write_cell(plan.out, result, items)


def _misfit(zoo: Zoo, method: FusionMethod, pool: ExpertPool) -> str | None:
    """Why a method cannot run with these experts, None where it can."""
    try:
        method.check(pool)
        if "adapter" in method.needs:
            adapter_entry(zoo, method)
    except LorafuseError as error:
        return str(error)
    return None


def _experts(plan: Plan, zoo: Zoo, suite: str, methods: Sequence[FusionMethod]) -> Sequence[str]:
    leaf_tasks(suite)
    if plan.experts is not None:
        return plan.experts
    wanted = suite_tasks(suite)
    names = [entry.name for entry in zoo.manifest.experts if suite in OBLIVION or entry.task in wanted]
    if not names and any(method.fuses_experts for method in methods):
        tasks = ", ".join(entry.task for entry in zoo.manifest.experts)
        raise LorafuseError(
            f"zoo '{zoo.name}' has no expert for suite '{suite}' (it has {tasks or 'none'}). Name --experts."
        )
    return names


def _path(plan: Plan, zoo: Zoo, method: FusionMethod, suite: str) -> Path:
    return schema.cell_path(plan.out, suite, zoo.name, zoo.manifest.seed, method.label())


def _inputs(
    plan: Plan, zoo: Zoo, method: FusionMethod, suite: str, pool: ExpertPool, source: str
) -> dict[str, Any]:
    """The fields of a result that are known before anything runs."""
    return {
        "suite": suite,
        **identity(zoo, pool, method, plan.dtype),
        "data": {"source": source_name(zoo, source), "splits": {}},
        "limit": plan.limit,
        "max_length": plan.max_length,
        "batch_size": plan.batch_size,
    }


def _check_same(path: Path, inputs: Mapping[str, Any]) -> None:
    """LorafuseError when a finished cell was made from other inputs than the plan's.

    A method's code may differ: its version says when its outputs do.
    """
    found = schema.read_result(path).model_dump(mode="json", by_alias=True)
    for field, wanted in inputs.items():
        have = found[field]
        if field == "data":
            have, wanted = have["source"], wanted["source"]
        if field == "method":
            have, wanted = ({**given, "source_sha256": ""} for given in (have, wanted))
        if field != "batch_size" and _plain(have) != _plain(wanted):
            raise LorafuseError(
                f"{path} was made with another {field} than asked for now. Choose another --out, or remove the file."
            )


def _plain(value: Any) -> Any:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _splits(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """Task key to the files or hub revisions that served its splits."""
    return {task_key(name): dict(task.dataset.provenance) for name, task in sorted(loaded.items())}


def _commit(task: Any) -> str | None:
    """The hub's commit in the addresses that a task's rows came from; None for rows from elsewhere."""
    checksums = task.dataset[task.config.test_split].info.download_checksums
    found = (_COMMIT.search(address) for address in checksums or ())
    return next((match.group(1) for match in found if match), None)


def _texts(suite: str, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Sample]:
    """Prompts, targets and outputs of the suite's tasks, for reading side by side."""
    return [
        row
        for key in suite_tasks(suite)
        for name in samples
        if task_key(name) == key and not name.endswith(OPTIONS)
        for row in of_lm_eval(key, samples[name], representative(suite, key))
    ]


def count_tokens(lm: LorafuseLM, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> int:
    """Tokens of all requests: context and continuation, given or generated."""
    texts = [
        text
        for rows in samples.values()
        for row in rows
        for request, responses in zip(row["arguments"], row["resps"], strict=True)
        for text in (*request, *responses)
        if isinstance(text, str)
    ]
    return sum(len(ids) for ids in lm.tokenizer(texts)["input_ids"]) if texts else 0
