"""Golden outputs: what each version of a method makes of frozen experts, so that no change goes unseen.

The experts and the inputs lie here in `golden_inputs.json`; a method's outputs beside its own module, in
`golden/<name>-v<version>.json`, by label, with their tolerance. Whoever means to change what a method computes raises
its `version` and freezes the new one.
"""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import LoraExpert
from lorafuse_bench.files import write_json
from lorafuse_bench.fusion.base import Ensembling, FusionMethod
from lorafuse_bench.testing.check import check
from lorafuse_bench.testing.subject import DoesNotApplyError, Subject, choose_in_turn, layers, require_experts
from lorafuse_bench.testing.toys import TASKS

INPUTS = Path(__file__).parent / "golden_inputs.json"
MODULE = "model.layers.0.self_attn.k_proj"
TOLERANCE = 1e-4
"""Relative to the length of the outputs; sums in another order stay far below, any other formula above."""


@check
def outputs_are_those_of_its_version(subject: Subject) -> None:
    """Frozen experts give what this version of the method gave when its golden outputs were written."""
    method = subject.method
    require_experts(method)
    file, label = golden_file(method), method.label()
    frozen = json.loads(file.read_text())["outputs"] if file.is_file() else {}
    if label not in frozen:
        raise DoesNotApplyError(
            f"no golden outputs of '{label}' version {method.version}: --freeze writes them"
        )
    expected = torch.tensor(frozen[label]["values"])
    distance = float((outputs(subject) - expected).norm() / expected.norm().clamp(min=1e-30))
    assert distance <= frozen[label]["tolerance"], (
        f"outputs are {distance:.2g} from those of version {method.version}: if that is meant, raise its version"
    )


def freeze(method: FusionMethod) -> Path:
    """Write a method's golden outputs, beside those of its other options.

    LorafuseError where it has none, or this version has others, which stay.
    """
    file, label = golden_file(method), method.label()
    try:
        values = outputs(Subject(method))
    except DoesNotApplyError as error:
        raise LorafuseError(f"method '{label}' has no golden outputs: {error}.") from error
    whole: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    frozen = whole.get("outputs", {})
    known = frozen.get(label)
    if known and (values - torch.tensor(known["values"])).norm() > known["tolerance"] * values.norm():
        raise LorafuseError(
            f"{file} has other outputs of '{label}': raise the method's version, which is {method.version}."
        )
    rounded = [[[float(f"{x:.7g}") for x in token] for token in row] for row in values.tolist()]
    frozen[label] = {"tolerance": TOLERANCE, "values": rounded}
    made = {"method": method.name, "version": method.version, "outputs": dict(sorted(frozen.items()))}
    write_json(file, made)
    return file


def golden_file(method: FusionMethod) -> Path:
    """Where the golden outputs of a method's version lie."""
    module = Path(inspect.getfile(type(method)))
    return module.parent / "golden" / f"{method.name}-v{method.version}.json"


@torch.no_grad()
def outputs(subject: Subject) -> Tensor:
    """What the method adds `(rows, tokens, out)` to one map of the frozen inputs, row i under expert i."""
    require_experts(subject.method)
    if isinstance(subject.method, Ensembling):
        raise DoesNotApplyError("it combines distributions, not updates")
    made = inputs()
    with subject.fused(_experts(made)) as model:
        choose_in_turn(model)
        layer = layers(model).get(MODULE)
        if layer is None:
            raise DoesNotApplyError("it updates nothing")
        x = torch.tensor(made["x"])
        result: Tensor = layer.update.output(layer.base, x) - layer.base(x)
    return result


@cache
def inputs() -> dict[str, Any]:
    """The frozen experts at one map, and its input."""
    made: dict[str, Any] = json.loads(INPUTS.read_text())
    return made


def _experts(made: dict[str, Any]) -> list[LoraExpert]:
    return [
        LoraExpert(
            name=task,
            tasks=(task,),
            path=Path(task),
            sha256=task,
            base_sha256=None,
            rank=len(one["A"]),
            alpha=one["scaling"] * len(one["A"]),
            factors={MODULE: (torch.tensor(one["A"]), torch.tensor(one["B"]))},
            scaling={MODULE: one["scaling"]},
        )
        for task, one in zip(TASKS, made["experts"], strict=True)
    ]
