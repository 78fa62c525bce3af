"""Settings: what is refused before anything runs, and how the learning rate rises and falls."""

from __future__ import annotations

import math
from typing import Any

import pytest

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.training.joint import JointSettings
from lorafuse_bench.training.router_training import RouterSettings
from lorafuse_bench.training.settings import AdapterSettings, ExpertSettings, Schedule

NAN, INF = math.nan, math.inf
BAD: list[tuple[type[Any], str, Any]] = [
    *((ExpertSettings, "learning_rate", value) for value in (0, -1e-4, NAN, INF)),
    *((ExpertSettings, "alpha", value) for value in (0, -16.0, NAN, INF)),
    *((ExpertSettings, "dropout", value) for value in (1, -0.1, NAN)),
    *((ExpertSettings, "rank", value) for value in (0, -1, 2**40)),
    *((ExpertSettings, "seed", value) for value in (-1, 2**32, 10**30)),
    *((ExpertSettings, "epochs", value) for value in (0, -1, NAN, INF)),
    (ExpertSettings, "rows", 0),
    (ExpertSettings, "held_out", -1),
    *((Schedule, "steps", value) for value in (0, -1, 2**31)),
    *((Schedule, "batch_size", value) for value in (0, -8)),
    *((Schedule, "accumulation", value) for value in (0, -1)),
    *((Schedule, "warmup_share", value) for value in (-0.1, 1.1, NAN)),
    *((Schedule, "cutoff", value) for value in (0, 7)),
    (Schedule, "checkpoints", 0),
    *((AdapterSettings, "learning_rate", value) for value in (0, NAN)),
    *((AdapterSettings, "epochs", value) for value in (0, -2, NAN)),
    *((RouterSettings, "learning_rate", value) for value in (0, NAN, INF)),
    *((RouterSettings, "hidden", value) for value in (0, -1)),
    *((RouterSettings, "seed", value) for value in (-1, 2**32)),
    *((RouterSettings, "held_out", value) for value in (1, -0.5, NAN)),
    *((RouterSettings, "weight_decay", value) for value in (-1, NAN)),
    *((JointSettings, "eta", value) for value in (-1, NAN, INF)),
    *((JointSettings, "learning_rate", value) for value in (0, NAN)),
]


@pytest.mark.parametrize(("kind", "name", "value"), BAD)
def test_a_number_that_makes_no_sense_is_refused(kind: type[Any], name: str, value: Any) -> None:
    with pytest.raises(LorafuseError) as refused:
        kind(**{name: value})
    assert str(refused.value).startswith(f"{name.replace('_', ' ')} {value} is not ")


def test_all_bad_numbers_are_said_at_once() -> None:
    with pytest.raises(
        LorafuseError, match=r"learning rate nan is not .*; steps 0 is not .*; alpha -1 is not"
    ):
        ExpertSettings(learning_rate=NAN, steps=0, alpha=-1)


@pytest.mark.parametrize(
    ("decay", "expected"),
    [
        ("linear", [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("constant", [0, 0.5, *[1] * 8]),
        ("cosine", [0, 0.5, *((1 + math.cos(math.pi * i / 8)) / 2 for i in range(8))]),
        ("stable", [0, 0.5, *[1] * 7, 0.5]),
    ],
)
def test_the_rate_rises_over_the_warm_up_and_falls_as_asked(decay: Any, expected: list[float]) -> None:
    schedule = Schedule(learning_rate=3.0, steps=10, warmup_share=0.2, decay=decay, decay_share=0.2)
    assert [schedule.rate(step) / 3 for step in range(10)] == pytest.approx(expected)
    assert Schedule(steps=10, warmup_share=0.0, decay=decay).rate(0) == 1e-4
