"""What a run id covers: for each version of the schema, an explicit list of fields.

A field that a later version of this package adds does not count in results that exist: their ids stay. What is to
count from then on gets a new version of the schema.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Fields = dict[str, Any]
ALL: Fields = {}
"""The whole value, whatever it holds."""
EACH = "*"
"""Stands for every entry of a list or of a table whose keys are names."""


def _only(*names: str, **inner: Fields) -> Fields:
    return dict.fromkeys(names, ALL) | inner


_METHOD = _only("name", "label", "family", "options", "version", "source_sha256")
_BASE = _only("repo", "revision", "sha256", "tokenizer_sha256", "dtype")
_EXPERT = _only("name", "revision", "sha256", "rank", "alpha", "targets")
_COMMON = _only(
    *("schema", "suite", "limit", "max_length"),
    method=_METHOD,
    zoo=_only("name", "seed", "sha256", "init"),
    base=_BASE,
    experts={EACH: _EXPERT},
    seeds=_only("python", "numpy", "torch", "fewshot"),
)
_LEARNED = {EACH: _only("name", "sha256", "experts")}
_TASK = ("version", "few_shot", "n", "n_original", "docs_sha256", "representative")
_REQUEST = _only("output_type", "generation", "filters", "repeats", "prompts_sha256")

# Version 1 counts the batch size, which changes no score, and the names of the files that served the rows. Version 2
# leaves both out: the hashes of documents and prompts say what was asked, by whichever command. Version 3 adds what was
# asked of the model beside the tasks, and calls `artefacts` what were `routers`.
IDENTITY: dict[str, Fields] = {
    "lorafuse.result/1": _COMMON
    | _only(
        *("batch_size", "num_fewshot"),
        routers=_LEARNED,
        data=_only("source", "splits"),
        truncation=_only("rule", "length"),
        tasks={EACH: _only(*_TASK, dataset=_only("hub", "name", "revision", "split"))},
    ),
    "lorafuse.result/2": _COMMON
    | _only(
        routers=_LEARNED,
        data=_only("source"),
        truncation=_only("rule", "length"),
        tasks={EACH: _only(*_TASK, dataset=_only("hub", "name", "split"), requests={EACH: _REQUEST})},
    ),
    "lorafuse.result/3": _COMMON
    | _only(
        artefacts=_LEARNED,
        settings=_only("system_instruction", "chat_template", "fewshot_as_multiturn", "generation", "model"),
        data=_only("source"),
        truncation=_only("rule", "length"),
        tasks={
            EACH: _only(*_TASK, "filter", dataset=_only("hub", "name", "split"), requests={EACH: _REQUEST})
        },
    ),
}
_ABSENT = {"truncation", "num_fewshot"}
"""Fields of version 1 that its first results lack, and that count only where they are set."""


def run_id(content: Mapping[str, Any]) -> str:
    """sha256 over the canonical JSON of the fields that a result's version counts."""
    inputs = picked(content, IDENTITY[content["schema"]])
    kept = {key: value for key, value in inputs.items() if value is not None or key not in _ABSENT}
    canonical = json.dumps(kept, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def picked(value: Any, fields: Fields) -> Any:
    """The part of a JSON value that `fields` names."""
    if not fields or value is None:
        return value
    if EACH in fields:
        if isinstance(value, Mapping):
            return {key: picked(inner, fields[EACH]) for key, inner in value.items()}
        return [picked(inner, fields[EACH]) for inner in value]
    return {key: picked(value[key], inner) for key, inner in fields.items() if key in value}
