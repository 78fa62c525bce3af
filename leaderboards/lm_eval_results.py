"""lm-eval's own results as ours: from `simple_evaluate` in memory, or from the files of the stock command.

    lm_eval --model lorafuse --model_args method=moa --tasks mtl5 --output_path DIR --log_samples

writes `results_<date>.json` and, beside it, `samples_<task>_<date>.jsonl`. What was evaluated stands in the
file's `config.lorafuse`, put there by the model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.item_checks import check_items
from lorafuse_bench.leaderboards.measures import fitting
from lorafuse_bench.leaderboards.plausible import check_plausible
from lorafuse_bench.leaderboards.reading import parsed, read_json, read_text
from lorafuse_bench.leaderboards.schema import Items, Result, SuiteRecord, TaskItems, invalid
from lorafuse_bench.leaderboards.stats import statistic
from lorafuse_bench.tasks.suites import Suite, SuiteTask, suites, task_key

# A result's name of a seed -> lm-eval's.
_SEEDS = {
    "python": "random_seed",
    "numpy": "numpy_seed",
    "torch": "torch_seed",
    "fewshot": "fewshot_seed",
}
_AGAIN = "Run lm_eval again with --output_path and --log_samples."


def seeds_of(config: Mapping[str, Any]) -> dict[str, int]:
    """A result's `seeds`, from lm-eval's `config`."""
    return {name: config[key] for name, key in _SEEDS.items()}


def items_of(samples: Mapping[str, Sequence[Mapping[str, Any]]], task: SuiteTask) -> TaskItems:
    """Per-item scores of a task, of all its leaves, by doc_id; LorafuseError where leaves differ."""
    hashes: tuple[str, ...] = ()
    metrics: dict[str, Any] = {}
    for name in task.leaves:
        rows = filtered(samples[name], _filter(task, name))
        if len({row["doc_id"] for row in rows}) < len(rows):
            raise LorafuseError(f"task '{name}': a doc_id stands twice in its samples. {_AGAIN}")
        found = tuple(row["doc_hash"] for row in rows)
        if hashes not in ((), found):
            raise LorafuseError(
                f"task '{name}' was scored on other documents than '{task.task}'. Check its data source."
            )
        hashes = found
        for metric in (metric for metric, owner in task.metrics.items() if owner == name):
            metrics[metric] = [_item(metric, row[metric]) for row in rows]
    return TaskItems(doc_hashes=hashes, metrics=metrics)


def filtered(rows: Sequence[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    """A leaf's logged samples under one of lm-eval's filters, by document."""
    return sorted((row for row in rows if row["filter"] == name), key=lambda row: row["doc_id"])


def _filter(task: SuiteTask, leaf: str) -> str:
    return task.filter if leaf == task.task else "none"


def _item(metric: str, value: Any) -> Any:
    """An item as statistics have it: lm-eval's bits per byte is (log-likelihood in nats, bytes)."""
    return [-value[0] / math.log(2), value[1]] if metric == "bits_per_byte" else value


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
        "version": str(output["versions"][main]),
        "few_shot": output["n-shot"][main],
        "n": output["n-samples"][main]["effective"],
        "n_original": output["n-samples"][main]["original"],
        "metrics": {name: _metric(name, task, output, items) for name in items.metrics},
        "requests": {
            leaf: request_of(output["configs"][leaf], output["samples"][leaf]) for leaf in task.leaves
        },
        "representative": task.metric,
        "empty_share": empty_share(output["samples"][main]),
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
    """As JSON has it, so that what is in memory equals what was read from a file."""
    return json.loads(json.dumps(value, default=str))


def empty_share(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of a leaf's logged answers that are nothing but white space; None where it asks for no text."""
    answers = [
        answer for row in rows for given in row["resps"] for answer in given if isinstance(answer, str)
    ]
    return sum(not answer.strip() for answer in answers) / len(answers) if answers else None


def _metric(name: str, task: SuiteTask, output: Mapping[str, Any], items: TaskItems) -> dict[str, Any]:
    owner = task.metrics[name]
    up = output["higher_is_better"][owner][name]
    unit = task.unit if name == task.metric else "fraction" if up else "loss"
    measure = fitting(items.metrics[name], unit)
    found = statistic(items.metrics[name], items.docs_sha256(), measure)
    theirs = output["results"][owner][f"{name},{_filter(task, owner)}"]
    if not math.isclose(found.value, theirs, rel_tol=1e-6, abs_tol=1e-9):
        raise LorafuseError(
            f"results.{owner}.{name}: lm-eval says {theirs}, the items make {found.value}. {_AGAIN}"
        )
    return {
        "value": found.value,
        "stderr": found.estimate().se,
        "stderr_method": measure.kind,
        "measure": measure.name,
        "direction": "up" if up else "down",
        "unit": unit,
    }


def is_lm_eval(head: Any) -> bool:
    """Whether a JSON document is lm-eval's results."""
    return isinstance(head, dict) and "schema" not in head and {"results", "configs", "config"} <= head.keys()


def read_lm_eval(path: Path) -> tuple[Result, Items]:
    """The result and items of one `results_<date>.json`; LorafuseError naming file and field."""
    try:
        output = read_json(path, _AGAIN)
        made = _read(path, output)
    except KeyError as error:
        raise LorafuseError(f"{path}: {error.args[0]}: missing. {_AGAIN}") from error
    except ValidationError as error:
        raise invalid(path, error) from error
    except (ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise LorafuseError(f"{path}: not lm-eval's results as expected: {error}. {_AGAIN}") from error
    except LorafuseError as error:
        if str(error).startswith(str(path.parent)):
            raise
        raise LorafuseError(f"{path}: {error}") from error
    check_plausible(path, made[0])
    check_items(path, *made)
    return made


def _read(path: Path, output: dict[str, Any]) -> tuple[Result, Items]:
    config, info = output["config"], dict(output["config"].get("lorafuse") or {})
    if not info:
        raise LorafuseError(
            "config.lorafuse: missing: not results of the model lorafuse. Move the file away."
        )
    cost, data = info["cost"], info["data"]
    suite = _suite(output)
    samples = _samples(path, output["configs"])
    items = Items({key: items_of(samples, task) for key, task in suite.tasks.items()})
    result = Result.of(
        items,
        {key: task_of(suite, key, {**output, "samples": samples}, items.root[key]) for key in suite.tasks},
        **{name: info[name] for name in ("method", "zoo", "base", "experts", "routers", "environment")},
        suite=suite.name,
        definition=SuiteRecord.of(suite),
        data={"source": data["source"], "splits": {}},
        limit=None if config["limit"] is None else math.ceil(config["limit"]),
        max_length=_max_length(config.get("model_args")) or info.get("max_length"),
        truncation=info.get("truncation"),
        batch_size=config["batch_size"],
        seeds=seeds_of(config),
        cost={**cost, "eval_seconds": float(output["total_evaluation_time_seconds"])},
    )
    return result, items


def _max_length(model_args: Any) -> int | None:
    """`max_length` of --model_args, which lm-eval keeps as a table or as the text that was given."""
    if isinstance(model_args, str):
        model_args = dict(part.partition("=")[::2] for part in model_args.split(","))
    given = (model_args or {}).get("max_length")
    return None if given is None else int(given)


def _suite(output: Mapping[str, Any]) -> Suite:
    """The suite whose tasks are all there and no other, or that was asked for by name.

    One suite may hold another by name, as mtl7 does mtl5.
    """
    keys = {task_key(name) for name in output["configs"]}
    known = list(suites())
    named = [suite for suite in known if suite.name in (output.get("groups") or {})]
    found = [suite for suite in known if set(suite.tasks) == keys] or named
    if len(found) != 1 or not set(found[0].tasks) <= keys:
        raise LorafuseError(
            f"configs: {', '.join(sorted(keys))}: not the tasks of one suite. Run lm_eval with --tasks"
            f" {' or '.join(suite.name for suite in known)}."
        )
    return found[0]


def _samples(path: Path, leaves: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Leaf task to its logged samples."""
    date = path.stem.removeprefix("results_")
    samples = {}
    for leaf in leaves:
        file = path.with_name(f"samples_{leaf}_{date}.jsonl")
        lines = read_text(file).split("\n")
        samples[leaf] = [
            parsed(f"{file}: line {number}", line, _AGAIN) for number, line in enumerate(lines, 1) if line
        ]
    return samples
