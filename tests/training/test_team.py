"""Several processes of `accelerate launch` train one adapter, or one expert, to the weights of one process."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import method_of
from launched import launch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.training.adapter_records import CONFIG
from lorafuse_bench.training.adapter_training import train_adapter
from lorafuse_bench.training.examples import Example
from lorafuse_bench.training.expert_training import train_experts
from lorafuse_bench.training.loop import Progress, Trainable, isolated_randomness, train
from lorafuse_bench.training.settings import AdapterSettings, ExpertSettings, Schedule
from lorafuse_bench.training.team import Team, alone
from lorafuse_bench.zoo.manifest import Zoo

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="no fork"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]

ADAPTER = AdapterSettings(
    learning_rate=1e-2, epochs=None, steps=4, batch_size=4, cutoff=96, checkpoints=2, rows=3
)


def adapter(
    base: str, out: Path, data: Path, spec: str, report: Any = lambda _: None, **changes: Any
) -> Path:
    settings = replace(ADAPTER, **changes)
    method = method_of(spec)
    entry = train_adapter(method, "two", ("sst2", "mnli"), base, out, str(data), settings, report)
    return out / entry.path


def close(one: Path, other: Path) -> None:
    expected, found = load_file(one), load_file(other)
    assert expected.keys() == found.keys()
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, atol=2e-5, rtol=1e-3)


def test_an_adapter_is_trained_to_the_weights_of_one_process(
    base: str, handmade_data: Path, tmp_path: Path
) -> None:
    """A batch has four rows, the last of an epoch two: then a portion leaves the second process without any."""
    spec = "moore:d_t=4+d_s=2+reflections=2"
    one = adapter(base, tmp_path / "one", handmade_data, spec, accumulation=2)
    said = tmp_path / "said"

    def work(rank: int) -> None:
        del os.environ["ACCELERATE_USE_CPU"]  # torchrun does not set it

        def report(text: str) -> None:
            with said.open("a") as file:
                file.write(f"{rank} {text}\n")

        adapter(base, tmp_path / "two", handmade_data, spec, report, accumulation=2)

    assert launch(work) == [0, 0]
    two = tmp_path / "two" / one.relative_to(tmp_path / "one")
    close(one / "adapter.safetensors", two / "adapter.safetensors")
    records = [json.loads((folder / CONFIG).read_text()) for folder in (one, two)]
    assert records[1]["loss"] == pytest.approx(records[0]["loss"], rel=1e-4)
    assert {**records[1], "loss": 0} == {**records[0], "loss": 0}
    assert {line[0] for line in said.read_text().splitlines()} == {"0"}
    assert not list((tmp_path / "two" / ".training").glob("*"))
    assert launch(work) == [0, 0]
    assert "already trained, kept" in said.read_text().splitlines()[-1]


def test_an_expert_too(base: str, handmade_data: Path, tmp_path: Path) -> None:
    settings = ExpertSettings(steps=2, batch_size=4, cutoff=96, rank=2, learning_rate=1e-2)

    def work(out: Path) -> Zoo:
        return train_experts(base, ["sst2"], out, str(handmade_data), settings, report=lambda _: None)

    work(tmp_path / "one")
    assert launch(lambda _: work(tmp_path / "two")) == [0, 0]
    file = "experts/sst2/adapter_model.safetensors"
    close(tmp_path / "one" / file, tmp_path / "two" / file)
    assert Zoo.open(tmp_path / "two").manifest.experts[0].name == "sst2"


class Forked(Trainable):
    """Two numbers, each moved by rows of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = nn.ParameterList([nn.Parameter(torch.ones(())) for _ in range(2)])

    def network(self) -> None:
        """None: there is no model."""

    def forward(self, labels: Tensor, num_items_in_batch: int) -> dict[str, Tensor]:
        parts = [self.numbers[which] ** 2 for which in labels[:, 1].tolist()]
        return {"loss": torch.stack(parts).sum() / num_items_in_batch}


def test_what_no_row_reaches_stays_where_it_is(tmp_path: Path) -> None:
    """Rows of a step reach both numbers, then the first alone, and in the end each in a process of its own."""
    reached = [[0, 1], [0, 0], [1, 0], [0, 0]]
    batches = [[{"input_ids": [which] * 2, "labels": [which] * 2} for which in rows] for rows in reached]

    def collate(rows: list[Example]) -> dict[str, Tensor]:
        return {"labels": torch.tensor([row["labels"] for row in rows])}

    def work(name: str) -> None:
        team, model, schedule = Team.of_launch(), Forked(), Schedule(learning_rate=0.1, steps=4, batch_size=2)
        with isolated_randomness():
            train(model, batches, collate, schedule, tmp_path, Progress(name, lambda _: None), team=team)
        if team.leads:
            save_file(model.state_dict(), tmp_path / name)

    work("one")
    assert launch(lambda _: work("two")) == [0, 0]
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "two")
    assert one == {key: pytest.approx(value.item(), abs=1e-6) for key, value in two.items()}


def test_what_one_process_does_is_refused_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    alone("a fit")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LorafuseError, match="a fit is done by one process"):
        alone("a fit")
