"""Batches of a run: which rows, in which order, how many are read, how much of them is padding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tiny import byte_tokenizer

from lorafuse_bench.tasks.rows import Row
from lorafuse_bench.training.examples import WINDOW, Batches, PadRight


class Counted(Sequence[Row]):
    """Rows of 1 to 99 letters that remember which of them were read."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        self.read.append(index)
        return Row("x" * (1 + index * 37 % 99), f" {index}", index)


def batches(size: int = 50, batch_size: int = 4, seed: int = 0, tasks: int = 1) -> Batches:
    return Batches([Counted(size) for _ in range(tasks)], byte_tokenizer(), 128, batch_size, seed)


def rows_of(made: Batches, first: int, last: int) -> list[str]:
    tokenizer = byte_tokenizer()
    examples = [example for i in range(first, last) for example in made[i]]
    return [
        tokenizer.decode([token for token in example["labels"] if token != -100])
        + f" of task {example['task']}"
        for example in examples
    ]


def test_no_more_rows_are_read_than_a_window_holds() -> None:
    made = batches(size=4_500_000, batch_size=8)
    assert len(made[0]) == 8
    (rows,) = made.tasks
    assert isinstance(rows, Counted) and len(rows.read) == 8 * WINDOW
    made[WINDOW - 1]
    assert len(rows.read) == 8 * WINDOW, "a window is tokenised once"


def test_an_epoch_is_all_rows_of_all_tasks_once_and_the_next_another_order() -> None:
    made = batches(size=25, tasks=2)
    assert made.per_epoch == 13
    first, second = rows_of(made, 0, 13), rows_of(made, 13, 26)
    assert Counter(first) == Counter(second) and len(set(first)) == 50
    assert first != second


def test_the_same_seed_gives_the_same_batches_from_wherever_it_starts() -> None:
    whole = rows_of(batches(), 0, 40)
    assert rows_of(batches(), 20, 40) == rows_of(batches(), 0, 40)[-len(rows_of(batches(), 20, 40)) :]
    assert whole == rows_of(batches(), 0, 40)
    assert whole != rows_of(batches(seed=1), 0, 40)


def test_little_of_a_batch_is_padding() -> None:
    made, collate = batches(size=5000, batch_size=8), PadRight(0)
    padded = [collate(made[i])["attention_mask"] for i in range(WINDOW)]
    assert sum(mask.numel() for mask in padded) / sum(int(mask.sum()) for mask in padded) < 1.05
    widths = [mask.shape[1] for mask in padded]
    assert widths != sorted(widths) and widths != sorted(widths, reverse=True), "lengths come in any order"
