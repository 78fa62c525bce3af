"""The loop that experts, jointly trained routers and adapters share: AdamW, resumable at any checkpoint."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench.device import mixed_precision
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.memory import peak_bytes
from lorafuse_bench.planning import Work
from lorafuse_bench.progress import SECONDS_BETWEEN, duration, watching
from lorafuse_bench.training import checkpoints
from lorafuse_bench.training.estimate import Estimate, of_training
from lorafuse_bench.training.examples import IGNORED, Example
from lorafuse_bench.training.settings import Schedule
from lorafuse_bench.training.team import ONE, Team, alone
from lorafuse_bench.training.trackers import Trackers

Report = Callable[[str], None]
MAX_GRADIENT_NORM = 1.0


SEEN = 8
"""Batches whose lengths an estimate goes by."""
SAID, LOGGED = 10, 100
"""How often a run says how far it is, and enters it into trackers."""
LIVE_SECONDS = 1.0
"""At most so often a live display is told."""


class Trainable(nn.Module, ABC):
    """What can be trained.

    `forward(**portion, num_items_in_batch=n)["loss"]` is a portion's share of the loss of its batch of n targets.
    """

    @abstractmethod
    def network(self) -> PreTrainedModel | None:
        """The model that a batch passes through, with what is trained in place; None where there is none."""


class Source(Protocol):
    """The batches of a run by number, from 0."""

    def __getitem__(self, index: int) -> list[Example]: ...


class Progress:
    """Says about ten times per run, and at least once in half a minute, how far `what` is and what it takes."""

    def __init__(
        self,
        what: str,
        report: Report,
        trackers: Trackers | None = None,
        first: bool = True,
        alike: Hashable = None,
    ) -> None:
        """first: whether it says what it takes; alike: the same for runs on networks of the same shapes."""
        self.first, self.alike = first, alike
        self.what, self.watcher, self.trackers = what, watching(report), trackers
        self.start = self.last = time.monotonic()
        self.first_step: int | None = None
        self.tokens = 0
        self.unsaid: list[Tensor] = []
        self.unlogged: list[Tensor] = []

    def say(self, estimate: Estimate) -> None:
        """What the run will take; LorafuseError where there is not the memory for it."""
        self.watcher.say(estimate.said(self.what))

    def step(self, step: int, steps: int, loss: Tensor, tokens: int, rate: float) -> None:
        """Step `step` of `steps` is done: its loss, how many tokens it read, its learning rate."""
        self.first_step = step - 1 if self.first_step is None else self.first_step
        self.tokens += tokens
        self.unsaid.append(loss)
        self.unlogged.append(loss)
        now = time.monotonic()
        speed = self.tokens / (now - self.start)
        due = step % max(1, steps // SAID) == 0 or step == steps
        # Reading a loss waits for a GPU, so not at every step.
        if due or now - self.last > (LIVE_SECONDS if self.watcher.live else SECONDS_BETWEEN):
            left = (now - self.start) / (step - self.first_step) * (steps - step)
            self.watcher.part(
                f"{self.what}: step {step}/{steps}, loss {_mean(self.unsaid, self.what, step):.3f},"
                f" {speed:,.0f} tokens/s, {_in_use(loss.device)}{duration(left)} left",
                due=due or not self.watcher.live,
            )
            self.last, self.unsaid = now, []
        if step % max(1, steps // LOGGED) == 0 or step == steps:
            if self.trackers is not None:
                loss_now = _mean(self.unlogged, self.what, step)
                self.trackers.log(step, {"loss": loss_now, "learning_rate": rate, "tokens_per_second": speed})
            self.unlogged = []
        if step == steps and self.trackers is not None:
            self.trackers.finish()

    def check(self, step: int, trained: Iterable[Tensor]) -> None:
        """LorafuseError where a loss since the last line or a trained weight is not finite, so that it is not saved."""
        if self.unsaid:
            _mean(self.unsaid, self.what, step)
        if not all(bool(tensor.isfinite().all()) for tensor in trained):
            raise LorafuseError(
                f"{self.what}: trained weights are NaN or infinite by step {step}. Lower the learning rate."
            )


def _in_use(device: torch.device) -> str:
    """`1.2 GiB, `: the most memory in use so far; nothing where the system does not tell."""
    most = peak_bytes(device)
    return "" if most is None else f"{most / 2**30:.1f} GiB, "


def _mean(losses: list[Tensor], what: str, step: int) -> float:
    """LorafuseError if it is not finite: training further would be lost."""
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise LorafuseError(
            f"{what}: the loss is {mean} by step {step}. Lower the learning rate or alpha, or use --dtype float32."
        )
    return mean


def _length(example: Example) -> int:
    return len(example["input_ids"])


def _rounded(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()


@contextmanager
def isolated_randomness() -> Iterator[None]:
    """Put torch's global generators back afterwards: dropout draws from them."""
    with torch.random.fork_rng():
        yield


@dataclass(frozen=True)
class Trained:
    """What a finished run says of itself; the same whether or not it was interrupted."""

    loss: float
    """Mean over its steps."""
    tokens: int
    """Tokens it read, padding not counted."""


def train(
    model: Trainable,
    batches: Source,
    collate: Callable[[list[Example]], dict[str, Tensor]],
    schedule: Schedule,
    work: Path,
    progress: Progress,
    dtype: torch.dtype = torch.float32,
    team: Team | None = None,
) -> Trained:
    """Train `model` to the end, from the newest checkpoint in `work` where there is one.

    Only parameters that require gradients are trained and saved, in the type they have; dtype is what the
    model computes in. Runs inside `isolated_randomness`. The processes of a team train together, to the weights of one;
    without a team, LorafuseError where several processes were launched.
    """
    if team is None:
        alone("this training")
    run = _Run(model, schedule, dtype, team or ONE)
    start = run.load(checkpoints.newest(work))
    every = max(1, schedule.steps // schedule.checkpoints)
    model.train()
    if start < schedule.steps and progress.first:
        progress.say(run.estimate(batches, start, progress.alike))
    for step in range(start, schedule.steps):
        loss, tokens = run.step(step, batches[step], collate)
        progress.step(step + 1, schedule.steps, loss, tokens, schedule.rate(step))
        if (step + 1) % every == 0 or step + 1 == schedule.steps:
            progress.check(step + 1, run.trained.values())
        if (step + 1) % every == 0 and step + 1 < schedule.steps and run.team.leads:
            checkpoints.save(work, step + 1, run.state(step + 1))
    model.eval()
    return Trained(float(run.loss) / schedule.steps, run.tokens)


class _Run:
    """What changes from step to step: parameters, optimiser, generators, the sum of losses."""

    def __init__(self, model: Trainable, schedule: Schedule, dtype: torch.dtype, team: Team) -> None:
        self.model, self.schedule, self.dtype, self.team = model, schedule, dtype, team
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.trained.values())).device
        self.optimizer = torch.optim.AdamW(
            self.trained.values(), lr=schedule.learning_rate, weight_decay=0.0, fused=True
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self.tokens = 0
        torch.manual_seed(schedule.seed)

    def step(
        self, step: int, examples: list[Example], collate: Callable[[list[Example]], dict[str, Tensor]]
    ) -> tuple[Tensor, int]:
        """One step of the optimiser; its loss, and the tokens it read."""
        targets = sum(label != IGNORED for example in examples for label in example["labels"][1:])
        size = -(-len(examples) // self.schedule.accumulation)
        loss = torch.zeros((), device=self.device)
        for first in range(0, len(examples), size):
            own = self.team.share(examples[first : first + size])
            if not own:
                continue
            batch = collate(list(own))
            portion = {name: tensor.to(self.device) for name, tensor in batch.items()}
            with mixed_precision(self.device, self.dtype):
                share = self.model(**portion, num_items_in_batch=targets)["loss"]
            self.scaler.scale(share).backward()
            loss += share.detach()
        self.team.add_up(self.trained.values(), loss)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(step)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.trained.values(), MAX_GRADIENT_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        tokens = sum(len(example["input_ids"]) for example in examples)
        self.loss += loss
        self.tokens += tokens
        return loss, tokens

    def estimate(self, batches: Source, start: int, alike: Hashable = None) -> Estimate:
        """What the steps from `start` on take in this process, by a few batches' lengths and a pass of the largest.

        Memory is that of somewhat longer rows, since those of later batches may be; so runs that are alike share it.
        """
        few = [batches[i] for i in range(start, min(start + SEEN, self.schedule.steps))]
        sizes = [len(batch) * max(map(_length, batch)) for batch in few]
        steps = self.schedule.steps - start
        passes, tokens = steps * self.schedule.accumulation, sum(sizes) * steps // len(few) // self.team.count
        most = few[sizes.index(max(sizes))]
        targets = sum(label != IGNORED for example in most for label in example["labels"][1:])
        longest = max(map(_length, most))
        length = min(_rounded(longest), max(longest, self.schedule.cutoff))
        rows = -(-len(most) // (self.schedule.accumulation * self.team.count))
        work = Work(rows, length, min(length, _rounded(-(-targets // len(most)))), train=True)
        return of_training(self.model.network(), passes, tokens, work, self.trained.values(), alike)

    def state(self, step: int) -> dict[str, Any]:
        """All of it, after `step` steps."""
        return {
            "step": step,
            "trained": {name: parameter.detach() for name, parameter in self.trained.items()},
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loss": self.loss,
            "tokens": self.tokens,
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def load(self, state: dict[str, Any] | None) -> int:
        """Take over a saved state; the step to go on with, counted from 0."""
        if state is None:
            return 0
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(state["trained"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.loss.copy_(state["loss"])
        self.tokens = int(state["tokens"])
        own, *others = state["generators"]
        torch.set_rng_state(own)
        if len(others) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(others)
        return int(state["step"])
