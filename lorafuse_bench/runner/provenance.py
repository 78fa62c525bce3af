"""What a cell is made of: the fields of its result that do not depend on its scores."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path

import torch

import lorafuse_bench
from lorafuse_bench import model_wrappers
from lorafuse_bench.files import sha256_file
from lorafuse_bench.identity import environment, identity, source_name
from lorafuse_bench.leaderboards.results import made_of, schema
from lorafuse_bench.runner.plan import Cell, Plan
from lorafuse_bench.zoo.manifest import Zoo

SEEDS = made_of.Seeds(python=0, numpy=1234, torch=1234, fewshot=1234)
"""Those of the lm_eval command."""
_NO_COST = made_of.Cost(fuse_seconds=0, eval_seconds=0, extra_parameters=0)
_NOWHERE = made_of.Environment(versions={}, git_commit=None, git_dirty=None, hardware="")


def draft_of(plan: Plan, zoo: Zoo, cell: Cell, source: str, dtype: str) -> schema.Result:
    """The cell's result as far as it is known before anything runs: without tasks, artefacts,
    cost and environment.

    LorafuseError for what no result can hold, such as a negative seed of the zoo.
    """
    return schema.Result.of(
        schema.Items({}),
        tasks={},
        suite=cell.suite,
        **identity(zoo, cell.pool, cell.method, dtype),
        artefacts=(),
        settings={
            "system_instruction": plan.system_instruction,
            "chat_template": "default" if plan.chat_template else None,
            "fewshot_as_multiturn": plan.chat_template,
            "generation": dict(plan.generation),
        },
        data={"source": source_name(zoo, source), "splits": {}},
        limit=plan.limit,
        max_length=plan.max_length or zoo.manifest.max_length,
        num_fewshot=plan.num_fewshot,
        batch_size=plan.batch_size,
        seeds=SEEDS,
        cost=_NO_COST,
        environment=_NOWHERE,
    )


def made_of_sha256(draft: schema.Result, zoo: Zoo, device: torch.device) -> str:
    """sha256 of all that a cell's answers depend on but its rows: inputs, what was learned, code and machine."""
    made = {
        "inputs": draft.content(),
        "learned": zoo.manifest.model_dump(mode="json"),
        "environment": environment(device),
        "code": _code_sha256(),
    }
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


@cache
def _code_sha256() -> str:
    """sha256 of our modules: a checkout's commit does not tell what was changed in it since."""
    roots = (Path(str(package.__file__)).parent for package in (lorafuse_bench, model_wrappers))
    hashes = sorted({sha256_file(path) for root in roots for path in root.rglob("*.py")})
    return hashlib.sha256("".join(hashes).encode()).hexdigest()
