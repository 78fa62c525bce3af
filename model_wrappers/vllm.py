"""The lm-eval model `lorafuse-vllm`: methods that are one adapter per sequence, served by vLLM."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.instance import Instance
from torch import Tensor
from tqdm import tqdm

from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.fusion.base import FusionMethod, RowRouting
from lorafuse_bench.heads import VLLM_CPU_SIZES
from lorafuse_bench.identity import identity
from lorafuse_bench.loading import skeleton
from lorafuse_bench.memory import tree_peak_bytes
from lorafuse_bench.model_wrappers.engine import (
    Answer,
    Ask,
    Engine,
    EngineDiedError,
    Settings,
    engine_options,
    require_vllm,
)
from lorafuse_bench.model_wrappers.generation import Asked
from lorafuse_bench.model_wrappers.hf import LorafuseLM
from lorafuse_bench.model_wrappers.kept import Kept
from lorafuse_bench.model_wrappers.options import split_options
from lorafuse_bench.scoring import Scored
from lorafuse_bench.serving import Served, how_served, serve
from lorafuse_bench.zoo.manifest import EMBEDDED, Zoo

_SAMPLING = {"temperature", "top_p", "top_k", "min_p", "seed", "repetition_penalty", "presence_penalty"}
_SAMPLING |= {"frequency_penalty", "min_tokens", "stop_token_ids", "ignore_eos"}


class LorafuseVLLM(LorafuseLM):
    """`lm_eval --model lorafuse-vllm --model_args method=NAME[,zoo=DIR][,...]`: as `lorafuse`, served by vLLM.

    Requests are the same tokens as under `lorafuse`, stopped and cut alike. A merge is served as one adapter,
    or added to the base where it is full-rank or over `max_lora_rank`; `oracle` and `moa` choose an adapter for
    each request, all in one continuous batch. Methods of more than one adapter per sequence are refused.
    `moa` first runs the Hugging Face base over all prompts, in batches, to route them: `route_seconds` of the
    results. Finished answers are appended to the file `keep`, and taken from there when the run is repeated;
    without it they are written down when the engine dies. Every other option of vLLM's engine passes through
    (`tensor_parallel_size`, `data_parallel_size`, `distributed_executor_backend=ray`, ...).
    """

    def __init__(
        self,
        method: str,
        zoo: str | Path = EMBEDDED,
        experts: str | Sequence[str] | None = None,
        data: str | None = None,
        batch_size: int | str = "auto",
        device: str | None = "cuda",
        dtype: str = "auto",
        max_length: int | None = None,
        max_lora_rank: int | None = None,
        keep: str | Path | None = None,
        **options: Any,
    ) -> None:
        require_vllm()
        chosen, engine_arguments = split_options(
            method, options, {"max_lora_rank", "keep"}, engine_options(), "vLLM's engine"
        )
        self._routes = _reads_prompts(chosen)
        self._max_rank = max_lora_rank
        self._engine_arguments = engine_arguments
        self._keep = None if keep is None else Path(keep)
        self._engine: Engine | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="lorafuse-vllm-")
        self.route_seconds: float | None = None
        how_served(chosen)
        if dtype == AUTO and not self._routes:  # the engine's device, not that of the base's skeleton
            dtype = Compute.of(AUTO, AUTO, Zoo.open(zoo).find_base()).record()["dtype"]
        super().__init__(
            chosen.label(),
            zoo,
            experts,
            data,
            prefix_sharing=False,
            # lm_eval's default of 1 is no choice of the user's, and the engine batches by itself.
            batch_size="auto" if str(batch_size) == "1" else batch_size,
            device=device if self._routes else "cpu",
            dtype=dtype,
            max_length=max_length,
        )

    def use(self, method: FusionMethod) -> None:
        """Serve another method: the engine is started again."""
        how_served(method)
        if _reads_prompts(method) and not self._routes:
            raise LorafuseError(
                f"method '{method.label()}' needs the base's weights. Make a new model for it."
            )
        super().use(method)
        self.close()
        folder = Path(tempfile.mkdtemp(dir=self._folder.name))
        sizes = None if torch.cuda.is_available() else VLLM_CPU_SIZES
        self.served: Served = serve(self.fused, folder, self._max_rank, sizes)
        settings = Settings(
            model=self.served.model,
            dtype=str(self.fused.model.dtype).removeprefix("torch."),
            # One more token than a prompt of full length and its continuation, and the one that scoring generates.
            max_length=self.max_length + 2,
            adapters=self.served.adapters,
            rank=self.served.rank,
            targets=self.served.targets,
            options=self._engine_arguments | self._longer(),
        )
        dtype, engine = settings.dtype, _vllm_version()
        about = identity(self.zoo, self.fused.pool, method, dtype)
        routers = [entry.sha256 for entry in self.fused.in_use]
        self._kept = Kept(
            {**about, "routers": routers, "vllm": engine, "served": self.served.how}, self._keep
        )
        self._start = partial(Engine, settings, folder / "vllm.log")

    @property
    def engine(self) -> Engine:
        """The running engine, started when it is first asked: which experts it serves may depend on the tasks."""
        if self._engine is None:
            self._engine = self._start()
        return self._engine

    def close(self) -> None:
        """Stop the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def get_model_info(self) -> dict[str, Any]:
        """As of `lorafuse`, with how the method was served; memory is that of all processes."""
        info = super().get_model_info()
        ours = info["lorafuse"]
        ours["environment"]["versions"]["vllm"] = _vllm_version()
        ours["cost"] |= {"peak_bytes": tree_peak_bytes(), "route_seconds": self.route_seconds}
        ours["serving"] = {
            "engine": "vllm",
            "how": self.served.how,
            "adapters": len(self.served.adapters),
            "max_lora_rank": self.served.rank,
        }
        return info

    # --- requests -------------------------------------------------------------------------------

    def _score(
        self, rows: Sequence[Scored], disable_tqdm: bool, prompts: Sequence[tuple[int, ...]]
    ) -> list[tuple[float, bool]]:
        adapters = self._adapters(prompts, [row.task for row in rows])
        asks = [
            Ask(row.context + row.continuation, adapter, scored=len(row.continuation))
            for row, adapter in zip(rows, adapters, strict=True)
        ]
        answers = self._run(asks, disable_tqdm, "Scoring continuations")
        return [
            (sum(value for value, _ in answer.scores), all(rank == 1 for _, rank in answer.scores))
            for answer in answers
        ]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each request's context, as under `lorafuse`."""
        asked = [self._asked(request) for request in requests]
        settings = [_sampling(each) for each in asked]
        adapters = self._adapters([each.prompt for each in asked], [each.task for each in asked])
        written: list[list[int]] = [[] for _ in asked]
        open_ = list(range(len(asked)))
        while open_:
            asks = [
                Ask(
                    asked[i].prompt + tuple(written[i]),
                    adapters[i],
                    settings=_left(settings[i], len(written[i])),
                )
                for i in open_
            ]
            answers = self._run(asks, disable_tqdm, "Generating")
            for i, answer in zip(open_, answers, strict=True):
                written[i] += answer.tokens
            # The engine ends at any stop; where it does not count, the model writes on.
            open_ = [
                i
                for i, answer in zip(open_, answers, strict=True)
                if answer.at_stop
                and len(written[i]) < asked[i].length
                and not asked[i].ending.ended(written[i])
            ]
        return [each.ending.answer(tokens) for each, tokens in zip(asked, written, strict=True)]

    def _adapters(self, prompts: Sequence[tuple[int, ...]], tasks: Sequence[str]) -> list[int | None]:
        """The adapter of each request; routing is timed separately."""
        if self.served.how != "adapters":
            return [0 if self.served.adapters else None] * len(prompts)
        start = time.perf_counter()
        chosen = self._choose(prompts, tasks)
        self.route_seconds = (self.route_seconds or 0.0) + time.perf_counter() - start
        assert chosen is not None
        return [_only(column, self.fused.method) for column in chosen]

    def _run(self, asks: Sequence[Ask], disable_tqdm: bool, what: str) -> list[Answer]:
        """Answers in the order of `asks`, from those kept where they are."""
        known = [self._kept.get(ask) for ask in asks]
        open_ = [i for i, answer in enumerate(known) if answer is None]
        silent = disable_tqdm or self.rank != 0
        with tqdm(total=len(asks), initial=len(asks) - len(open_), disable=silent, desc=what) as progress:

            def report(position: int, answer: Answer) -> None:
                self._kept.add(asks[open_[position]], answer)
                progress.update()

            try:
                new = self.engine.run([asks[i] for i in open_], report)
            except EngineDiedError as death:
                raise self._with_rescue(death) from death
        for i, answer in zip(open_, new, strict=True):
            known[i] = answer
        return [answer for answer in known if answer is not None]

    def _with_rescue(self, death: EngineDiedError) -> EngineDiedError:
        """The error that says where the finished answers are, after writing them."""
        if not len(self._kept):
            return EngineDiedError(f"{death} Run the same command again.")
        path = self._kept.save(Path(f"lorafuse-vllm-{self._kept.identity[:12]}.jsonl"))
        again = "Run the same command again" if self._keep else f"Add keep={path} to --model_args"
        return EngineDiedError(
            f"{death} {len(self._kept)} answers are kept in {path}. {again} to go on from there."
        )

    # --- the base's skeleton --------------------------------------------------------------------

    def _create_model(self, pretrained: str, dtype: str | torch.dtype | None = "auto", **others: Any) -> None:
        """The base itself where prompts are routed; else only its names and shapes, for the tokens are vLLM's."""
        if self._routes:
            super()._create_model(pretrained=pretrained, dtype=dtype, **others)
            return
        chosen = None if dtype in (None, "auto") else getattr(torch, str(dtype).removeprefix("torch."))
        model: Any = skeleton(pretrained, chosen)
        # lm-eval places models on the accelerator; there is nothing to place.
        model.to = lambda *args, **kwargs: model
        self._model = model

    def _longer(self) -> dict[str, Any]:
        """vLLM must count the token after the last as part of the model's length."""
        longest = getattr(self.config, "max_position_embeddings", None)
        need = self.max_length + 2
        return (
            {} if longest is None or need <= longest else {"hf_overrides": {"max_position_embeddings": need}}
        )


def _sampling(asked: Asked) -> dict[str, Any]:
    """vLLM's sampling settings of a request; LorafuseError for what it has no setting for."""
    settings = {key: value for key, value in asked.settings.items() if key != "do_sample"}
    if settings.pop("num_beams", 1) != 1 or settings.keys() - _SAMPLING:
        raise LorafuseError(
            f"generation settings {', '.join(sorted(settings.keys() - _SAMPLING)) or 'num_beams'} are not"
            " served by vLLM here. Leave them out, or use --model lorafuse."
        )
    return {
        "temperature": 1.0 if asked.settings["do_sample"] else 0.0,
        **settings,
        "max_tokens": asked.length,
        "stop": list(asked.ending.stops),
        "include_stop_str_in_output": True,
    }


def _left(settings: dict[str, Any], written: int) -> dict[str, Any]:
    """The settings for going on after `written` tokens."""
    counted = settings.keys() & {"max_tokens", "min_tokens"}
    return settings | {key: max(0, settings[key] - written) for key in counted}


def _only(column: Tensor, method: FusionMethod | None) -> int:
    values = set(column.tolist())
    if len(values) != 1:
        name = method.label() if method else "?"
        raise LorafuseError(
            f"method '{name}' gave one sequence several experts, which vLLM cannot serve. Use --model lorafuse."
        )
    return int(values.pop())


def _reads_prompts(method: FusionMethod) -> bool:
    """Whether its choice of experts takes a pass of the base over each prompt."""
    return isinstance(method, RowRouting) and "fit" in method.needed


def _vllm_version() -> str:
    """Of the package that brings `vllm`, whatever its name (vllm, vllm-cpu)."""
    return version(packages_distributions()["vllm"][0])
