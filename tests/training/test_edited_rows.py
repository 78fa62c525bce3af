"""What was trained is not kept where its rows were edited since, nor its checkpoints continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from adapters import method_of

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.tasks import catalogue, rows, suites
from lorafuse_bench.training import adapter_training, expert_training
from lorafuse_bench.training.loop import Progress
from lorafuse_bench.training.settings import AdapterSettings, ExpertSettings

TASK = """
task: tell
dataset_path: json
dataset_kwargs: {{data_files: {{train: {0}/train.jsonl, test: {0}/test.jsonl}}}}
output_type: multiple_choice
training_split: train
test_split: test
doc_to_text: "{{{{question}}}}?"
doc_to_choice: ["no", "yes"]
doc_to_target: label
"""


@dataclass(frozen=True)
class Own:
    """A task of one's own: its YAML and its rows."""

    folder: Path

    @property
    def yaml(self) -> Path:
        return self.folder / "tell.yaml"

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        suites.forget()  # as another process reads it


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Own]:
    folder = tmp_path / "task"
    folder.mkdir()
    made = Own(folder)
    made.yaml.write_text(TASK.format(folder))
    for split in ("train", "test"):
        lines = [json.dumps({"question": f"{split} {i}", "label": i % 2}) for i in range(6)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines))
    monkeypatch.setenv(catalogue.VARIABLE, str(folder))
    suites.forget()
    yield made
    monkeypatch.undo()
    suites.forget()


def expert(base: str, out: Path) -> Path:
    settings = ExpertSettings(steps=4, batch_size=1, rank=1, cutoff=64, held_out=1, checkpoints=2)
    expert_training.train_experts(base, ("tell",), out, "hub", settings, report=lambda _: None)
    return out / "experts" / "tell" / "training.json"


def adapter(base: str, out: Path) -> Path:
    settings = AdapterSettings(steps=4, epochs=None, batch_size=1, cutoff=64, checkpoints=2, rows=5)
    adapter_training.train_adapter(
        method_of("lora:rank=1"), "tell", ("tell",), base, out, "hub", settings, report=lambda _: None
    )
    return out / "adapters" / "lora" / "tell-rank=1" / "adapter.json"


Train = Callable[[str, Path], Path]
BOTH = pytest.mark.parametrize("train", [expert, adapter])


EDITS = (
    ("train.jsonl", "train 4", "train four"),
    ("train.jsonl", 'train 1", "label": 1', 'train 1", "label": 0'),
    ("tell.yaml", "}}?", "}}, is it?"),
    ("tell.yaml", '"yes"', '"oui"'),
    ("tell.yaml", "training_split: train", "training_split: test"),
)


@BOTH
def test_what_learned_other_rows_is_refused(base: str, tmp_path: Path, own: Own, train: Train) -> None:
    """And kept again when the edit is undone, or is of rows held out, past --rows, or of another split."""
    path = train(base, tmp_path / "zoo")
    before = path.stat().st_mtime_ns
    for file, old, new in EDITS:
        own.edit(file, old, new)
        with pytest.raises(LorafuseError, match=r"trained on other rows of tell .* edited.* another --out"):
            train(base, tmp_path / "zoo")
        own.edit(file, new, old)
    own.edit("train.jsonl", "train 5", "train five")
    own.edit("test.jsonl", "test 0", "test zero")
    assert train(base, tmp_path / "zoo").stat().st_mtime_ns == before


@BOTH
def test_records_that_say_no_rows_are_kept_without_reading_any(
    base: str, tmp_path: Path, own: Own, train: Train
) -> None:
    path = train(base, tmp_path / "zoo")
    record = json.loads(path.read_text())
    assert list(record.pop("rows_sha256")) == ["tell"]
    path.write_text(json.dumps(record))
    (own.folder / "train.jsonl").unlink()
    assert json.loads(train(base, tmp_path / "zoo").read_text()) == record


@BOTH
def test_a_stopped_run_on_other_rows_begins_anew(
    base: str, tmp_path: Path, own: Own, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    step = Progress.step

    def stop(self: Progress, number: int, *told: Any) -> None:
        steps.append(number)
        if steps == [1, 2, 3]:
            raise KeyboardInterrupt
        step(self, number, *told)

    monkeypatch.setattr(Progress, "step", stop)
    with pytest.raises(KeyboardInterrupt):
        train(base, tmp_path / "zoo")
    own.edit("train.jsonl", "train 1", "train one")
    train(base, tmp_path / "zoo")
    assert steps == [1, 2, 3, 1, 2, 3, 4]


def test_every_document_counts_and_a_share_of_what_is_read(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more rows than HASHED all documents are hashed, and only HASHED are written."""
    monkeypatch.setattr(rows, "HASHED", 2)
    monkeypatch.setattr(rows, "BLOCK", 4)
    found = {rows.training_rows("tell", "hub").sha256(count) for count in (5, 6)}
    for place in (1, 5):
        own.edit("train.jsonl", f"train {place}", f"other {place}")
        found.add(rows.training_rows("tell", "hub").sha256(6))
    assert len(found) == 4
