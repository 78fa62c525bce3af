"""The files of the stock command as results of ours.

    lm_eval --model lorafuse --model_args method=moa --tasks mtl5 --output_path DIR --log_samples

writes `results_<date>.json` and, beside it, `samples_<task>_<date>.jsonl`. What was evaluated stands in the
file's `config.lorafuse`, put there by the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.leaderboards.results.assembly import AGAIN, assemble
from lorafuse_bench.leaderboards.results.item_checks import check_items
from lorafuse_bench.leaderboards.results.plausible import check_plausible
from lorafuse_bench.leaderboards.results.reading import parsed, read_json, read_text
from lorafuse_bench.leaderboards.results.schema import Items, Result, invalid
from lorafuse_bench.tasks.facts import Suite
from lorafuse_bench.tasks.suites import suite_of_leaves


def is_lm_eval(head: Any) -> bool:
    """Whether a JSON document is lm-eval's results."""
    return isinstance(head, dict) and "schema" not in head and {"results", "configs", "config"} <= head.keys()


def read_lm_eval(path: Path) -> tuple[Result, Items]:
    """The result and items of one `results_<date>.json`; LorafuseError naming file and field."""
    try:
        output = read_json(path, AGAIN)
        made = _read(path, output)
    except KeyError as error:
        raise LorafuseError(f"{path}: {error.args[0]}: missing. {AGAIN}") from error
    except ValidationError as error:
        raise invalid(path, error) from error
    except (ArithmeticError, AttributeError, LookupError, StopIteration, TypeError, ValueError) as error:
        raise LorafuseError(f"{path}: not lm-eval's results as expected: {error}. {AGAIN}") from error
    except LorafuseError as error:
        if str(error).startswith(str(path.parent)):
            raise
        raise LorafuseError(f"{path}: {error}") from error
    check_plausible(path, made[0])
    check_items(path, *made)
    return made


def _read(path: Path, output: dict[str, Any]) -> tuple[Result, Items]:
    info = output["config"].get("lorafuse")
    if not info:
        raise LorafuseError(
            "config.lorafuse: missing: not results of the model lorafuse. Move the file away."
        )
    suite, samples = _suite(output), _samples(path, output["configs"])
    seconds = float(output["total_evaluation_time_seconds"])
    return assemble({**output, "samples": samples}, suite, eval_seconds=seconds)


def _suite(output: Mapping[str, Any]) -> Suite:
    """The suite that the model recorded; of older files, which hold none, the one that its tasks make up."""
    info = output["config"]["lorafuse"]
    if "unscored" in info:
        raise LorafuseError(info["unscored"])
    if "suite" in info:
        return Suite.model_validate(info["suite"])
    return suite_of_leaves(list(output["configs"]), output.get("groups") or {})


def _samples(path: Path, leaves: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
    """Leaf task to its logged samples."""
    date = path.stem.removeprefix("results_")
    samples = {}
    for leaf in leaves:
        file = path.with_name(f"samples_{leaf}_{date}.jsonl")
        lines = read_text(file).split("\n")
        samples[leaf] = [
            parsed(f"{file}: line {number}", line, AGAIN) for number, line in enumerate(lines, 1) if line
        ]
    return samples
