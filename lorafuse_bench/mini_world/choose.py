"""The rule that chooses the experts' learning rate and steps, from their own validation answers alone.

`python -m lorafuse_bench.mini_world.choose ZOO OUT` trains the grid on the base and data of a built mini zoo and
writes one JSON table. docs/mini-world.md states the rule and its reasons.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import write_json
from lorafuse_bench.loading import load_model, load_tokenizer
from lorafuse_bench.mini_world.settings import EXPERTS, VALIDATION_ROWS
from lorafuse_bench.mini_world.splits import MTL7
from lorafuse_bench.tasks.rows import Row, training_rows
from lorafuse_bench.training.examples import (
    IGNORED,
    Example,
    PadRight,
    hold_out,
    pad_token,
    tokenize,
)
from lorafuse_bench.training.expert_training import train_experts
from lorafuse_bench.training.loss import target_logits

GRID = ((1e-3, 2000), (2e-3, 400), (5e-3, 400))
GOAL = 0.95


@dataclass(frozen=True)
class Candidate:
    """One setting of the grid and what its experts reached."""

    learning_rate: float
    steps: int
    update_norm: float
    """Mean over experts of the relative update norm."""
    exact: dict[str, float]
    """Share of validation answers written exactly, per task."""

    @property
    def worst(self) -> float:
        return min(self.exact.values())


def choose(candidates: Sequence[Candidate]) -> Candidate:
    """The smallest updates among settings whose every expert reaches the goal, else the best worst expert."""
    reached = [candidate for candidate in candidates if candidate.worst >= GOAL]
    if reached:
        return min(reached, key=lambda candidate: candidate.update_norm)
    return max(candidates, key=lambda candidate: candidate.worst)


def exact_share(model: PreTrainedModel, base: str, rows: Sequence[Row], cutoff: int = 512) -> float:
    """Share of rows whose target greedy decoding writes exactly, end of text included."""
    tokenizer = load_tokenizer(base)
    examples = tokenize(rows, tokenizer, cutoff)
    return written_exactly(model, examples, pad_token(tokenizer)) / len(rows)


@torch.inference_mode()
def written_exactly(model: PreTrainedModel, examples: Sequence[Example], pad: int) -> int:
    """How many examples' targets greedy decoding writes exactly.

    One forward pass tells: it does exactly when each target token is the most likely one after those before.
    """
    ordered = sorted(examples, key=lambda example: len(example["input_ids"]))
    collate, count = PadRight(pad), 0
    for start in range(0, len(ordered), 50):
        batch = {name: value.to(model.device) for name, value in collate(ordered[start : start + 50]).items()}
        labels = batch.pop("labels")
        logits, targets = target_logits(model, labels, **batch)
        rows = (logits.argmax(-1) == targets).split((labels[:, 1:] != IGNORED).sum(1).tolist())
        count += sum(bool(row.all()) for row in rows)
    return count


def validation_rows(key: str, data: str, count: int = VALIDATION_ROWS) -> list[Row]:
    """The rows at the end of a training split that experts do not see."""
    return hold_out(training_rows(key, data), count)[1]


def exact_shares(
    base: str,
    data: str,
    experts: Path,
    keys: Sequence[str],
    *,
    cutoff: int = 512,
    held_out: int = VALIDATION_ROWS,
    device: str = "cpu",
) -> dict[str, float]:
    """Task to the share of its validation answers that its own expert writes exactly."""
    shares = {}
    for key in keys:
        model = load_model(base, torch.float32)
        expert = PeftModel.from_pretrained(model, str(experts / key)).eval().to(device)
        shares[key] = exact_share(expert, base, validation_rows(key, data, held_out), cutoff)
    return shares


def evaluate(zoo: Path, out: Path, rate: float, steps: int, workers: int = 2) -> Candidate:
    """Train the experts of one setting into `out` and test them on the validation rows."""
    base, data = str(zoo / "base"), str(zoo / "data")
    settings = replace(EXPERTS, learning_rate=rate, steps=steps)
    trained = train_experts(base, MTL7, out, data, settings, workers=workers)
    records = trained.manifest.training["experts"]
    exact = exact_shares(base, data, out / "experts", MTL7)
    norm = sum(records[key]["relative_update_norm"] for key in MTL7) / len(MTL7)
    return Candidate(rate, steps, norm, exact)


def main(arguments: Sequence[str], report: Callable[[str], None] = print) -> None:
    """Try the whole grid and write `table.json`; finished experts are kept between runs."""
    if len(arguments) != 2:
        raise LorafuseError("two folders are needed: the built mini zoo, and where to train the grid.")
    zoo, out = (Path(argument) for argument in arguments)
    candidates = []
    for rate, steps in GRID:
        candidates.append(evaluate(zoo, out / f"{rate:g}-{steps}", rate, steps))
        report(str(candidates[-1]))
        rows = [asdict(candidate) for candidate in candidates]
        write_json(out / "table.json", {"grid": rows, "chosen": asdict(choose(candidates))})


if __name__ == "__main__":
    main(sys.argv[1:])
