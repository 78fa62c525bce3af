"""The grid of (method, suite) cells on one loaded base: plan, run, keep what is finished."""

from __future__ import annotations

import logging
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod
from lorafuse_bench.leaderboards import schema
from lorafuse_bench.leaderboards.stats import statistic
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.tasks.data import HUB, MINI, resolve_source
from lorafuse_bench.tasks.suites import OPTIONS, REPRESENTATIVE, SUITES, leaf_tasks, task_key
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo

_LOGGER = logging.getLogger(__name__)
_PACKAGES = ("lorafuse-bench", "lm_eval", "torch", "transformers", "peft", "datasets")


@dataclass(frozen=True)
class Plan:
    """What to run: every method on every suite, with the experts of one zoo.

    `experts=None` takes, for each suite, the zoo's experts of that suite's tasks: as in the papers, five
    experts are fused for five tasks.
    """

    methods: Sequence[FusionMethod]
    suites: Sequence[str]
    out: Path
    zoo: str | Path = EMBEDDED
    experts: Sequence[str] | None = None
    data: str | None = None
    limit: int | None = None
    batch_size: int = 32
    dtype: str = "float32"
    device: str = "cuda"


def all_methods(zoo: Zoo) -> list[FusionMethod]:
    """Every registered method with its default options, those that need no router the zoo lacks."""
    trained = {router.method for router in zoo.manifest.routers}
    return [
        registry.create(name)
        for name, cls in registry.methods().items()
        if "router" not in cls.needs or name in trained
    ]


def run(plan: Plan, report: Callable[[str], None] = _LOGGER.info) -> list[Path]:
    """Run the plan's unfinished cells and return the result files of all.

    A finished cell is kept and not run again; one whose inputs differ from the plan's is refused
    before anything runs. Raises LorafuseError for bad input.
    """
    zoo = Zoo.open(plan.zoo)
    source = resolve_source(plan.data, str(plan.zoo))
    pools = {suite: ExpertPool.from_zoo(zoo, _experts(plan, zoo, suite)) for suite in plan.suites}
    cells = [(method, suite) for suite in plan.suites for method in plan.methods]
    paths = [_path(plan, zoo, method, suite) for method, suite in cells]
    pending = []
    for (method, suite), path in zip(cells, paths, strict=True):
        if path.is_file():
            _check_same(path, _inputs(plan, zoo, method, suite, pools[suite], source, None), plan.limit)
            report(f"{suite} {method.label()}: kept {path}")
        else:
            pending.append((method, suite))
    if not pending:
        return paths
    lm = LorafuseLM(
        "base", zoo=plan.zoo, data=plan.data, batch_size=plan.batch_size, device=plan.device, dtype=plan.dtype
    )
    for position, (method, suite) in enumerate(pending, start=1):
        report(f"[{position}/{len(pending)}] {suite} {method.label()}")
        lm.fused = FusedModel.of(lm.fused, pools[suite])
        path = run_cell(plan, zoo, lm, method, suite, source)
        report(f"[{position}/{len(pending)}] {suite} {method.label()}: {path}")
    return paths


def run_cell(plan: Plan, zoo: Zoo, lm: LorafuseLM, method: FusionMethod, suite: str, source: str) -> Path:
    """Evaluate one method on one suite and write its result and items."""
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
    )
    seconds = time.perf_counter() - start
    if output is None:
        raise LorafuseError(
            "only the first of several processes holds results. Run `lorafuse run` in one process."
        )
    items = {key: _items(output["samples"], key) for key in SUITES[suite]}
    result = schema.Result.of(
        **_inputs(plan, zoo, method, suite, lm.fused.pool, source, _splits(loaded)),
        cost={
            "fuse_seconds": lm.fused.fuse_seconds,
            "eval_seconds": seconds,
            "extra_parameters": lm.fused.extra_parameters,
        },
        environment=_environment(lm),
        tasks={key: _scores(key, loaded, output, items[key]) for key in SUITES[suite]},
    )
    return schema.write_cell(plan.out, result, schema.Items.model_validate(items))


def _experts(plan: Plan, zoo: Zoo, suite: str) -> Sequence[str] | None:
    leaf_tasks(suite)
    if plan.experts is not None:
        return plan.experts
    names = [entry.name for entry in zoo.manifest.experts if entry.task in SUITES[suite]]
    if not names:
        tasks = ", ".join(entry.task for entry in zoo.manifest.experts)
        raise LorafuseError(
            f"zoo '{zoo.name}' has no expert for suite '{suite}' (it has {tasks}). Name --experts."
        )
    return names


def _path(plan: Plan, zoo: Zoo, method: FusionMethod, suite: str) -> Path:
    return schema.cell_path(plan.out, suite, zoo.name, zoo.manifest.seed, method.label())


def _inputs(
    plan: Plan,
    zoo: Zoo,
    method: FusionMethod,
    suite: str,
    pool: ExpertPool,
    source: str,
    splits: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The fields of a result that decide its scores; `splits=None` before the data is read."""
    return {
        "suite": suite,
        "method": {
            "name": method.name,
            "label": method.label(),
            "family": method.family,
            "options": method.options(),
            "version": method.version,
        },
        "zoo": {
            "name": zoo.name,
            "seed": zoo.manifest.seed,
            "sha256": zoo.sha256(),
            "init": zoo.manifest.init,
        },
        "base": {"path": zoo.manifest.base.path, "sha256": zoo.manifest.base.sha256, "dtype": plan.dtype},
        "experts": [
            {"name": e.name, "sha256": e.sha256, "rank": e.rank, "alpha": e.alpha, "targets": e.targets}
            for e in pool.experts
        ],
        "data": {"source": _source_name(zoo, source), "splits": splits or {}},
        "limit": plan.limit,
        "batch_size": plan.batch_size,
    }


def _source_name(zoo: Zoo, source: str) -> str:
    """A folder is named, not located: results travel between machines. A zoo's own data bears its name."""
    if source in (HUB, MINI):
        return source
    folder = Path(source).resolve()
    return zoo.name if zoo.root.resolve() in folder.parents else folder.name


def _check_same(path: Path, inputs: Mapping[str, Any], limit: int | None) -> None:
    """LorafuseError when a finished cell was made from other inputs than the plan's."""
    found = schema.read_result(path).model_dump(mode="json", by_alias=True)
    for field, wanted in inputs.items():
        have = found[field]
        if field == "data":
            have, wanted = have["source"], wanted["source"]
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


def _items(samples: Mapping[str, list[dict[str, Any]]], key: str) -> dict[str, Any]:
    """Per-item scores of a task, its `_options` leaf included, by doc_id."""
    held: dict[str, Any] = {"doc_hashes": [], "metrics": {}}
    for name in sorted(samples):
        if task_key(name) != key:
            continue
        rows = sorted(samples[name], key=lambda sample: sample["doc_id"])
        hashes = [row["doc_hash"] for row in rows]
        if held["doc_hashes"] not in ([], hashes):
            raise LorafuseError(
                f"task '{name}' was scored on other documents than '{key}'. Check its data source."
            )
        held["doc_hashes"] = hashes
        for metric in rows[0]["metrics"]:
            if metric != "score" and not metric.endswith("_stderr"):
                held["metrics"][metric] = [row[metric] for row in rows]
    return held


def _scores(
    key: str, loaded: Mapping[str, Any], output: Mapping[str, Any], items: Mapping[str, Any]
) -> dict[str, Any]:
    """A task's entry in the result, from its items; lm-eval's own values must agree."""
    leaves = [name for name in loaded if task_key(name) == key]
    main = next(name for name in leaves if not name.endswith(OPTIONS))
    metrics = {}
    for metric, values in items["metrics"].items():
        owner = next(name for name in leaves if f"{metric},none" in output["results"][name])
        estimate = statistic(values).estimate()
        up = output["higher_is_better"][owner][metric]
        metrics[metric] = {
            "value": estimate.value,
            "stderr": estimate.se,
            "direction": "up" if up else "down",
            "unit": "fraction" if up else "nats/byte",
        }
    config = loaded[main].config
    return {
        "dataset": {
            "hub": config.dataset_path,
            "name": config.dataset_name,
            "split": config.test_split,
        },
        "n": output["n-samples"][main]["effective"],
        "n_original": output["n-samples"][main]["original"],
        "metrics": metrics,
        "representative": REPRESENTATIVE[key],
    }


def _environment(lm: LorafuseLM) -> dict[str, Any]:
    device = torch.device(lm.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    commit = _git("rev-parse", "HEAD")
    return {
        "versions": {package: version(package) for package in _PACKAGES}
        | {"python": platform.python_version()},
        "git_commit": commit,
        "git_dirty": bool(_git("status", "--porcelain")) if commit else None,
        "hardware": f"{name}, {torch.get_num_threads()} threads",
    }


def _git(*arguments: str) -> str | None:
    """Output of git in the package's checkout; None when it is not one."""
    folder = Path(__file__).resolve().parent.parent
    if not (folder / "pyproject.toml").is_file():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
