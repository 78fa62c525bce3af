"""What `lorafuse bench serve` compares: vLLM, our wrapper on transformers, and PEFT's mixed batches."""

from __future__ import annotations

import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.export import export_pool
from lorafuse_bench.loading import load_model
from lorafuse_bench.memory import peak_bytes, processes, reset_peak, tree_peak_bytes
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.zoo.manifest import Zoo
from lorafuse_bench.zoo.pools import experts_for, named

BACKENDS = ("vllm", "hf", "peft")


@dataclass(frozen=True)
class Request:
    """A prompt and the task it belongs to."""

    task: str
    prompt: str


@dataclass(frozen=True)
class Run:
    """One pass over the requests: seconds of routing, of all the rest, and each request's token arrivals.

    Arrivals are seconds after the request was handed to the model: with the others of its batch on
    transformers, on its own on vLLM.
    """

    route_seconds: float
    serve_seconds: float
    arrivals: tuple[tuple[float, ...], ...]

    @property
    def total_seconds(self) -> float:
        return self.route_seconds + self.serve_seconds


class Backend(ABC):
    """A method ready to answer."""

    lm: LorafuseLM
    start_seconds: float

    @abstractmethod
    def generate(
        self, prompts: Sequence[tuple[int, ...]], chosen: list[int] | None, tokens: int, n: int
    ) -> Run:
        """Continue every prompt by exactly `tokens` greedy tokens, `n` at a time, each under its expert."""

    @property
    @abstractmethod
    def how(self) -> str:
        """How the method is served."""

    @property
    @abstractmethod
    def adapters(self) -> int:
        """Adapters kept in memory."""

    def peak_bytes(self) -> int | None:
        """Most memory that the serving processes used."""
        return peak_bytes(self.lm.device)

    def close(self) -> None:  # noqa: B027 - most have nothing to give back
        """Give everything back."""

    def answer(self, requests: Sequence[Request], n: int, tokens: int) -> Run:
        """Route and continue all requests, `n` at a time."""
        room = self.lm.max_length - tokens
        prompts = [tuple(self.lm.tok_encode(request.prompt)[-room:]) for request in requests]
        start = time.perf_counter()
        choices = self.lm._choose(prompts, [request.task for request in requests])
        route_seconds = time.perf_counter() - start
        chosen = None if choices is None else [int(column[0]) for column in choices]
        served = self.generate(prompts, chosen, tokens, n)
        return Run(route_seconds if chosen else 0.0, served.serve_seconds, served.arrivals)


class Vllm(Backend):
    """One continuous batch in vLLM's engine."""

    def __init__(self, spec: str, zoo: str, experts: Sequence[str], dtype: str) -> None:
        from lorafuse_bench.model_wrappers.vllm import LorafuseVLLM

        self.lm = self.served = LorafuseVLLM(spec, zoo=zoo, experts=experts, dtype=dtype)
        self.start_seconds = self.served.engine.start_seconds

    @property
    def how(self) -> str:
        return self.served.served.how

    @property
    def adapters(self) -> int:
        return len(self.served.served.adapters)

    def generate(
        self, prompts: Sequence[tuple[int, ...]], chosen: list[int] | None, tokens: int, n: int
    ) -> Run:
        from lorafuse_bench.model_wrappers.engine import Ask

        settings = {"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True, "detokenize": False}
        same = 0 if self.adapters else None
        adapters: Sequence[int | None] = chosen or [same] * len(prompts)
        asks = [Ask(p, adapter, settings=settings) for p, adapter in zip(prompts, adapters, strict=True)]
        # Every pass must compute its prompts: what an earlier one left is dropped.
        self.served.engine.forget()
        start = time.perf_counter()
        answers = self.served.engine.run(asks, in_flight=n, stream=True)
        seconds = time.perf_counter() - start
        return Run(0.0, seconds, tuple(tuple(answer.arrivals) for answer in answers))

    def peak_bytes(self) -> int | None:
        """Of the engine's processes, without the one that asks."""
        return tree_peak_bytes(processes()[1:])

    def close(self) -> None:
        self.served.close()


class Hf(Backend):
    """Our wrapper: batches of n prompts on transformers, experts gathered per row."""

    def __init__(self, spec: str, zoo: str, experts: Sequence[str], dtype: str) -> None:
        start = time.perf_counter()
        self.lm = LorafuseLM(spec, zoo=zoo, experts=experts, dtype=dtype, batch_size=32)
        self.start_seconds = time.perf_counter() - start
        reset_peak(self.lm.device)

    @property
    def how(self) -> str:
        from lorafuse_bench.serving import how_served

        assert self.lm.fused.method is not None
        return how_served(self.lm.fused.method)

    @property
    def adapters(self) -> int:
        return {"base": 0, "adapters": len(self.lm.fused.pool)}.get(self.how, 1)

    def generate(
        self, prompts: Sequence[tuple[int, ...]], chosen: list[int] | None, tokens: int, n: int
    ) -> Run:
        arrivals: list[tuple[float, ...]] = []
        start = time.perf_counter()
        for first in range(0, len(prompts), n):
            rows = slice(first, first + n)
            arrivals += self._batch(prompts[rows], chosen[rows] if chosen else None, tokens)
        return Run(0.0, time.perf_counter() - start, tuple(arrivals))

    @torch.no_grad()
    def _batch(
        self, prompts: Sequence[tuple[int, ...]], chosen: list[int] | None, tokens: int
    ) -> list[tuple[float, ...]]:
        width = max(map(len, prompts))
        ids = torch.tensor([(0,) * (width - len(p)) + p for p in prompts], device=self.lm.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.lm.device)
        clock = Clock()
        self.model(chosen).generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            stopping_criteria=StoppingCriteriaList([clock]),
            **self.extra(chosen),
        )
        self.lm.fused.selection.set(None)
        return [tuple(clock.seconds)] * len(prompts)

    def model(self, chosen: list[int] | None) -> Any:
        """The model to generate with, with the rows' experts selected."""
        if chosen is not None:
            index = torch.tensor(chosen, device=self.lm.device)[:, None]
            self.lm.fused.selection.set(index.expand(-1, self.lm.fused.base.blocks).clone())
        return self.lm.model

    def extra(self, chosen: list[int] | None) -> dict[str, Any]:
        """Further arguments of `generate`."""
        return {}


class Peft(Hf):
    """PEFT's own way to one adapter per row: a mixed batch (`adapter_names=`)."""

    def __init__(self, spec: str, zoo: str, experts: Sequence[str], dtype: str) -> None:
        super().__init__(spec, zoo, experts, dtype)
        start = time.perf_counter()
        method, opened = self.lm.fused.method, Zoo.open(zoo)
        pool = method.experts(self.lm.fused)  # type: ignore[union-attr]
        base = load_model(opened.base_folder(), self.lm.model.dtype)
        with tempfile.TemporaryDirectory() as folder:
            paths = [one.path for one in export_pool(pool, opened, Path(folder) / "experts")]
            mixed = PeftModel.from_pretrained(base, str(paths[0]), adapter_name=paths[0].name)
            for path in paths[1:]:
                mixed.load_adapter(str(path), adapter_name=path.name)
        self.mixed, self.names = mixed.eval().to(self.lm.device), pool.names
        self.start_seconds += time.perf_counter() - start

    def model(self, chosen: list[int] | None) -> Any:
        return self.mixed

    def extra(self, chosen: list[int] | None) -> dict[str, Any]:
        return {} if chosen is None else {"adapter_names": [self.names[i] for i in chosen]}


class Clock(StoppingCriteria):
    """Notes when each step of a generation ends; never stops it."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.seconds: list[float] = []

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.seconds.append(time.perf_counter() - self.start)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def start(backend: str, spec: str, zoo: str, tasks: Sequence[str], dtype: str) -> Backend:
    """A backend with the zoo's experts of these tasks; LorafuseError when there are none or it cannot start."""
    opened = Zoo.open(zoo)
    experts = experts_for(opened, tasks)
    if not any(set(tasks) & set(entry.tasks) for entry in named(opened, experts)):
        raise LorafuseError(f"zoo '{zoo}' has no expert for the suite's tasks. Name another --suite.")
    classes: dict[str, type[Vllm | Hf | Peft]] = {"vllm": Vllm, "hf": Hf, "peft": Peft}
    return classes[backend](spec, zoo, experts, dtype)
