"""Documents of 100,000 characters are scored and answered by both routes, cut to the model's length."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
import torch
from handmade import DATASETS, write_split
from lm_eval import evaluator
from lm_eval.tasks import TaskManager
from torch import nn
from toy_grid import plan

from lorafuse_bench import runner
from lorafuse_bench.leaderboards.results import cell_files
from lorafuse_bench.zoo.manifest import Zoo

LONG = "a film of words " * 6250
LONG_COLUMNS = {"sst2": "sentence", "squad": "context", "piqa": "goal"}
LENGTH = 128
"""Of the model, in tokens; a character is about one."""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """A row of each task whose text is long."""
    for task, column in LONG_COLUMNS.items():
        folder, split, (row, *_), features = DATASETS[task]
        write_split(tmp_path / "data" / folder, split, [{**row, column: LONG}], features)
    return tmp_path / "data"


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Of all token ids that the model embeds."""
    seen: list[torch.Size] = []
    embed = nn.Embedding.forward

    def seeing(self: nn.Embedding, ids: torch.Tensor) -> torch.Tensor:
        seen.append(ids.shape)
        return embed(self, ids)

    monkeypatch.setattr(nn.Embedding, "forward", seeing)
    return seen


def check(shapes: list[torch.Size]) -> None:
    """Prompts fill the model's length, but for what an answer may take."""
    assert LENGTH // 2 < max(length for _, length in shapes) <= LENGTH


def test_lorafuse_run(zoo: Zoo, rows: Path, tmp_path: Path, shapes: list[torch.Size]) -> None:
    assert len(LONG) == 100_000
    asked = plan(
        zoo, tmp_path / "out", "concat", suites=list(LONG_COLUMNS), data=str(rows), max_length=LENGTH
    )
    for path in runner.run(asked):
        result = cell_files.read_result(path)
        assert result.truncation is not None and result.truncation.length == LENGTH
        assert all(task.n == 1 for task in result.tasks.values())
    check(shapes)


def test_lm_eval(zoo: Zoo, rows: Path, shapes: list[torch.Size]) -> None:
    manager = TaskManager(
        include_defaults=False,
        include_path=str(files("lorafuse_bench.tasks")),
        metadata={"data": str(rows), "method": "concat"},
    )
    told = evaluator.simple_evaluate(
        "lorafuse",
        f"method=concat,zoo={zoo.root},data={rows},max_length={LENGTH}",
        [f"lorafuse_{task}" for task in LONG_COLUMNS],
        batch_size=8,
        device="cpu",
        task_manager=manager,
    )
    assert told is not None and told["config"]["lorafuse"]["truncation"]["length"] == LENGTH
    check(shapes)
