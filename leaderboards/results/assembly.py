"""A result made of what lm-eval returned and what our model recorded: the one place, whoever ran it.

`config.lorafuse` of lm-eval's results is the model's record (model_wrappers/record.py): method, zoo, base, experts,
the suite that was asked for, where its rows came from. The rest is lm-eval's own: prompts, answers, seeds, limit.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.measures import Measure, Reading, fitting, named, reader
from lorafuse_bench.leaderboards.results.schema import Items, Result, SuiteRecord, TaskItems
from lorafuse_bench.leaderboards.statistics.stats import statistic
from lorafuse_bench.tasks.facts import Suite, SuiteTask

AGAIN = "Run lm_eval again with --output_path and --log_samples."
# A result's name of a seed -> lm-eval's.
_SEEDS = {
    "python": "random_seed",
    "numpy": "numpy_seed",
    "torch": "torch_seed",
    "fewshot": "fewshot_seed",
}


def assemble(
    output: Mapping[str, Any],
    suite: Suite,
    eval_seconds: float,
    tokens_per_second: float | None = None,
    num_fewshot: int | None = None,
) -> tuple[Result, Items]:
    """The result and items of lm-eval's `output`, samples included, of the model `lorafuse`.

    LorafuseError where items and lm-eval's own values disagree, and for a field that no result can hold.
    """
    config, info = output["config"], output["config"]["lorafuse"]
    data = info["data"]
    items = Items({key: items_of(output["samples"], task) for key, task in suite.tasks.items()})
    revisions = data.get("revisions") or {}
    tasks = {key: task_of(suite, key, output, items.root[key], revisions.get(key)) for key in suite.tasks}
    result = Result.of(
        items,
        tasks,
        **{name: info[name] for name in ("method", "zoo", "base", "experts", "environment")},
        artefacts=info.get("artefacts", info.get("routers")),  # of files older than the first name
        settings={**(info.get("settings") or {}), "generation": _plain(config.get("gen_kwargs") or {})},
        suite=suite.name,
        definition=SuiteRecord.of(suite),
        data={"source": data["source"], "splits": data.get("splits") or {}},
        limit=_limit(config["limit"]),
        max_length=info.get("max_length"),
        truncation=info.get("truncation"),
        num_fewshot=num_fewshot,
        batch_size=config["batch_size"],
        seeds={name: config[key] for name, key in _SEEDS.items()},
        cost={**info["cost"], "eval_seconds": eval_seconds, "tokens_per_second": tokens_per_second},
    )
    return result, items


def _limit(given: float | None) -> float | None:
    """A number of items is whole, whatever lm-eval's command makes of it."""
    return given if given is None or given < 1 else math.ceil(given)


def lm_eval_config(seeds: Mapping[str, int], **settings: Any) -> dict[str, Any]:
    """The `config` of lm-eval's results, of a run that was not its own command's."""
    return {_SEEDS[name]: seed for name, seed in seeds.items()} | settings


def items_of(samples: Mapping[str, Sequence[Mapping[str, Any]]], task: SuiteTask) -> TaskItems:
    """Per-item scores of a task, of all its leaves, by doc_id; LorafuseError where leaves differ."""
    hashes: tuple[str, ...] = ()
    metrics: dict[str, Any] = {}
    for name in task.leaves:
        rows = filtered(samples[name], _filter(task, name))
        if len({row["doc_id"] for row in rows}) < len(rows):
            raise LorafuseError(f"task '{name}': its samples have a doc_id twice. {AGAIN}")
        found = tuple(row["doc_hash"] for row in rows)
        if hashes not in ((), found):
            raise LorafuseError(
                f"task '{name}' was scored on other documents than '{task.task}'. Check its data source."
            )
        hashes = found
        for metric in (metric for metric, owner in task.metrics.items() if owner == name):
            try:
                metrics[metric] = _read(task, metric, [row[metric] for row in rows])
            except LorafuseError:  # such as a correlation of three labels
                if metric == task.metric:
                    raise
    return TaskItems(doc_hashes=hashes, metrics=metrics)


def filtered(rows: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """A leaf's logged samples under one of lm-eval's filters, by document."""
    return sorted((row for row in rows if row["filter"] == name), key=lambda row: row["doc_id"])


def _filter(task: SuiteTask, leaf: str) -> str:
    return task.filter if leaf == task.task else "none"


def _read(task: SuiteTask, metric: str, logged: list[Any]) -> list[Any]:
    """A metric's items, from what lm-eval logged."""
    known = _measured(task, metric)
    return list(map(known[1].row, logged)) if known else logged


def _measured(task: SuiteTask, metric: str) -> tuple[Measure, Reading] | None:
    """A metric's measure and how its items are read; None of a suite that was recorded before it said so."""
    if task.measure and metric == task.metric:
        return named(task.measure), Reading()
    if not task.aggregations:
        return reader(metric) if metric == "bits_per_byte" else None
    return reader(task.aggregations[metric])


def task_of(
    suite: Suite, key: str, output: Mapping[str, Any], items: TaskItems, revision: str | None = None
) -> dict[str, Any]:
    """A task's entry in a suite's result, from its items; lm-eval's own values must agree."""
    task = suite.tasks[key]
    main, config = task.task, output["configs"][task.task]
    return {
        "dataset": {
            "hub": str(config.get("dataset_path") or "its own code"),
            "name": config.get("dataset_name"),
            "revision": revision,
            "split": config.get("test_split") or str(config.get("validation_split")),
        },
        **asked_of(task, output),
        "n": output["n-samples"][main]["effective"],
        "metrics": {name: _metric(name, task, output, items) for name in items.metrics},
        "empty_share": empty_share(config["output_type"], output["samples"][main]),
    }


def asked_of(task: SuiteTask, output: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a task's entry that does not depend on which of its documents were evaluated, but for the prompts."""
    main = task.task
    return {
        "version": str(output["versions"][main]),
        "few_shot": output["n-shot"][main],
        "n_original": output["n-samples"][main]["original"],
        "requests": {
            leaf: request_of(output["configs"][leaf], output["samples"][leaf]) for leaf in task.leaves
        },
        "filter": task.filter,
        "representative": task.metric,
    }


def request_of(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a leaf sent to the model, from its configuration, as it ran, and its logged samples."""
    hashes = {row["doc_id"]: row["prompt_hash"] for row in rows}
    prompts = "\n".join(hashes[doc_id] for doc_id in sorted(hashes))
    return {
        "output_type": config["output_type"],
        "generation": _plain(config.get("generation_kwargs") or {}),
        "filters": _plain(config.get("filter_list")),
        "repeats": config.get("repeats") or 1,
        "prompts_sha256": hashlib.sha256(prompts.encode()).hexdigest(),
    }


def _plain(value: Any) -> Any:
    """As JSON stores it, so that the value in memory equals the one read from a file."""
    return json.loads(json.dumps(value, default=str))


def empty_share(output_type: str, rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of a leaf's logged answers that are nothing but white space; None where it asks for no text.

    Likelihoods are numbers in memory and text in lm-eval's files.
    """
    if output_type != "generate_until":
        return None
    answers = [answer for row in rows for given in row["resps"] for answer in given]
    return sum(not answer.strip() for answer in answers) / len(answers)


def _metric(name: str, task: SuiteTask, output: Mapping[str, Any], items: TaskItems) -> dict[str, Any]:
    owner = task.metrics[name]
    up = output["higher_is_better"][owner][name]
    known = _measured(task, name)
    plain = (known and known[1].unit) or ("fraction" if up else "loss")
    unit = task.unit if name == task.metric else plain
    measure = known[0] if known else fitting(items.metrics[name], unit)
    found = statistic(items.metrics[name], items.docs_sha256(), measure)
    theirs = output["results"][owner][f"{name},{_filter(task, owner)}"]
    if not math.isclose(found.value, theirs, rel_tol=1e-6, abs_tol=1e-9):
        raise LorafuseError(
            f"results.{owner}.{name}: lm-eval says {theirs}, the items make {found.value}. {AGAIN}"
        )
    return {
        "value": found.value,
        "stderr": found.estimate().se,
        "stderr_method": measure.kind,
        "measure": measure.name,
        "direction": "up" if up else "down",
        "unit": unit,
    }
