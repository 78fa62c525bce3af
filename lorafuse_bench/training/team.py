"""Processes of one `accelerate launch` that train together: they share every batch and add up its gradients."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from accelerate import PartialState
from torch import Tensor

from lorafuse_bench.device import AUTO
from lorafuse_bench.errors import LorafuseError

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """`count` processes, of which this one is number `index`; the first alone says and writes anything."""

    index: int = 0
    count: int = 1

    @classmethod
    def of_launch(cls) -> Team:
        """The processes that a launcher started with this one; LorafuseError where accelerate does not join them."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        told = os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true"
        state = PartialState(cpu=told or not torch.accelerator.is_available())
        if state.num_processes != count:
            raise LorafuseError(
                f"{count} processes were launched, and accelerate joins {state.num_processes}. Start one, or set"
                " ACCELERATE_USE_CPU=true for processes on a CPU."
            )
        return cls(state.process_index, state.num_processes)

    @property
    def leads(self) -> bool:
        return self.index == 0

    def device(self, asked: str) -> str:
        """The device that was asked for; of `auto` this process's own."""
        return str(PartialState().device) if self.count > 1 and asked == AUTO else asked

    def report(self, report: Callable[[str], None]) -> Callable[[str], None]:
        """What the first process is to say; nothing in the others."""
        return report if self.leads else lambda text: None

    def share(self, rows: Sequence[T]) -> Sequence[T]:
        """This process's rows of a batch."""
        return rows[self.index :: self.count]

    def add_up(self, trained: Iterable[Tensor], loss: Tensor) -> None:
        """Make gradients, and the loss, those of the whole batch in every process.

        What no row of the batch reached has none, as in one process: an optimiser leaves it where it is, and would move
        what has one of zeros on by its moments.
        """
        if self.count == 1:
            return
        parameters = list(trained)
        reached = torch.tensor([p.grad is not None for p in parameters], device=loss.device).int()
        torch.distributed.all_reduce(loss)
        torch.distributed.all_reduce(reached)
        for parameter, processes in zip(parameters, reached.tolist(), strict=True):
            if not processes:
                continue
            if parameter.grad is None:  # no row of this process reached it
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def wait(self) -> None:
        """Until all are here."""
        if self.count > 1:
            PartialState().wait_for_everyone()


ONE = Team()


def alone(what: str) -> None:
    """LorafuseError where several processes were launched for what only one can do."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise LorafuseError(
            f"{what} is done by one process. Start the command itself; accelerate launch is for `train adapter` and"
            " `train experts`."
        )
