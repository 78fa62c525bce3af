"""The lm-eval model `lorafuse`: a Hugging Face base with a zoo's experts fused by a chosen method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.models.utils import handle_stop_sequences
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from lorafuse_bench import plugin
from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import FusionMethod, Prompts
from lorafuse_bench.identity import model_info
from lorafuse_bench.loading import check_base, loading
from lorafuse_bench.model_wrappers import record
from lorafuse_bench.model_wrappers.blocks import Blocks
from lorafuse_bench.model_wrappers.generation import Asked, Writer, settings_of
from lorafuse_bench.model_wrappers.options import config_options, hf_options, split_options, truth
from lorafuse_bench.model_wrappers.stopping import Ending
from lorafuse_bench.model_wrappers.texts import TextsLM
from lorafuse_bench.remote_code import trust, trusted
from lorafuse_bench.scoring import Scored, Scorer, batches, shares_prefixes
from lorafuse_bench.tasks.answers import refuse_strays
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.docs import END
from lorafuse_bench.tasks.metrics.nll import Likelihood
from lorafuse_bench.tasks.nulls import refuse_nulls
from lorafuse_bench.tasks.shots import refuse_cache
from lorafuse_bench.tasks.suites import task_key
from lorafuse_bench.training.fit_rows import check_rows
from lorafuse_bench.truncation import LEAST, RULE, answer_room, truncate
from lorafuse_bench.zoo.manifest import EMBEDDED, ArtefactEntry, Zoo
from lorafuse_bench.zoo.pools import by_bank, experts_for, untrained

_AUTO_BATCH = 32
_LOGGER = logging.getLogger(__name__)


class LorafuseLM(TextsLM):
    """`lm_eval --model lorafuse --model_args method=NAME[,zoo=DIR][,experts=a/b][,data=...][,options]`.

    `method` and its options choose the fusion method, `zoo` a zoo directory (the embedded `mini` by
    default), `experts` some of its experts, or a bank such as `@mbc` (by default those of the tasks asked for:
    zoo/pools.py), `data` the source of the tasks' rows (read by the tasks).
    Prompts too long for `max_length` tokens (the zoo's own by default) lose their middle (truncation.py).
    Everything else goes to lm-eval's Hugging Face model. Methods that route by task or prompt choose
    an expert for each request before any batch is formed, so results do not depend on batch size,
    order or padding.
    """

    bar: Callable[..., Any] = staticmethod(tqdm)
    """Draws how many requests are done; `lorafuse run` has its own."""
    blocks = Blocks()
    """Keeps answers while an evaluation runs; `lorafuse run` has them on disk."""

    def __init__(
        self,
        method: str,
        zoo: str | Path = EMBEDDED,
        experts: str | Sequence[str] | None = None,
        data: str | None = None,
        prefix_sharing: bool = True,
        batch_size: int | str = 1,
        device: str | None = "cuda",
        max_length: int | None = None,
        **options: Any,
    ) -> None:
        self.zoo = Zoo.open(str(zoo))  # lm-eval makes numbers of names that look like one
        chosen, model_options = split_options(
            method,
            options,
            {"prefix_sharing"},
            hf_options(),
            "lm-eval's hf model and transformers' from_pretrained",
            lambda: config_options(self.zoo.find_base()),
        )
        if model_options.get("tp_plan"):
            raise LorafuseError(
                "tp_plan splits linear maps, and experts adapt whole ones. Spread the layers: parallelize=true."
            )
        self.data_source = resolve_source(data, str(zoo), method)
        names = str(experts).split("/") if isinstance(experts, str | int) else experts
        self._named = names
        plugin.tell_model(evaluator)
        trust(truth("trust_remote_code", model_options.pop("trust_remote_code", False)))
        self.longest = None if max_length is None else int(max_length)
        if self.longest is None:
            self.longest = self.zoo.manifest.max_length
        self._DEFAULT_MAX_LENGTH = self.longest or HFLM._DEFAULT_MAX_LENGTH  # of a base that names no limit
        folder = self.zoo.base_folder()
        check_base(folder)
        # The lm_eval command always asks for cuda:0.
        absent = str(device).startswith("cuda") and not torch.cuda.is_available()
        asked = str(model_options.pop("dtype", None) or AUTO).removeprefix("torch.")
        compute = Compute.of("cpu" if absent else device or AUTO, asked, folder)
        pool = self._whole_pool = ExpertPool.from_zoo(self.zoo, names, compute.dtype)
        with loading(folder):
            super().__init__(
                pretrained=str(folder),
                trust_remote_code=trusted(),
                batch_size=batch_size,
                device=str(compute.device),
                dtype=compute.dtype,
                truncation=False,
                **model_options,
            )
        self._join()
        if self.model.device.type == "meta" and hasattr(self.model, "hf_device_map"):
            raise LorafuseError(
                f"the first layers of the base in {folder} are on disk, by the memory that its device map was given."
                " Give it more: max_memory_per_gpu or max_cpu_memory."
            )
        with loading(folder):
            tokens = self.tok_encode("a")
        if not tokens:
            raise LorafuseError(f"the base in {folder} has no tokenizer. Save its tokenizer there.")
        if self.max_length < LEAST:
            raise LorafuseError(
                f"a length of {self.max_length} tokens holds no prompt and its answer. Set max_length to {LEAST}"
                " or more."
            )
        self.shortened: dict[str, int] = {}
        self.tasks: Mapping[str, Any] = {}
        self.asked: Mapping[str, Any] = {}
        self.model_options = model_options
        self.fused = FusedModel(self.model, self.zoo, pool)
        self.prefix_sharing = truth("prefix_sharing", prefix_sharing) and shares_prefixes(self.model)
        self.use(chosen)

    def _join(self) -> None:
        """Take this process's share of the documents under `accelerate launch`; lm-eval does where it counts GPUs."""
        accelerator = getattr(self, "accelerator", None)
        if accelerator is not None:
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer at most: as asked for, or as the zoo was trained, within the base's own."""
        own = int(super().max_length)
        return min(own, self.longest or own)

    def use(self, method: FusionMethod) -> None:
        """Switch to another method in place; the base stays loaded."""
        self.shortened = {}
        self.fused.use(method)
        for entry in self.fused.in_use:
            if isinstance(entry, ArtefactEntry):
                check_rows(self.zoo, entry, self.data_source)

    def meet(self, tasks: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        """Be told the tasks about to be evaluated, and the arguments of lm-eval's `evaluate`.

        The tasks' experts are taken where the user named none or a bank. LorafuseError for lm-eval's request cache,
        whoever's the tasks are, and for a chat template that there is not.
        """
        refuse_cache(bool(asked.get("cache_requests")))
        if asked.get("apply_chat_template"):
            self.chat_template(asked["apply_chat_template"])
        for task in tasks.values():
            refuse_nulls(task)
            refuse_strays(task)
        self.tasks, self.asked = tasks, asked
        keys, method = list(dict.fromkeys(map(task_key, tasks))), self.fused.method
        assert method is not None
        if self._named is None or any(map(by_bank, self._named)):
            self._take(experts_for(self.zoo, keys, self._named), method)
        if method.fuses_experts and (word := untrained(self.zoo, keys, self._named)):
            _LOGGER.warning(word)
        method.check_tasks(self.fused.pool, keys)

    def _take(self, names: tuple[str, ...], method: FusionMethod) -> None:
        if names != self.fused.pool.names:
            held = self._whole_pool
            pool = ExpertPool([expert for expert in held.experts if expert.name in names], held.dtype)
            self.fused = FusedModel.of(self.fused, pool)
            self.use(method)

    def set_cache_hook(self, cache_hook: Any) -> None:
        """Refuses lm-eval's response cache."""
        raise LorafuseError(
            "--use_cache keys answers by the prompt alone and would return one method's or task's answer for"
            " another. Leave it out; `lorafuse run` keeps finished cells instead."
        )

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results; `lorafuse leaderboard build` reads `lorafuse`."""
        return {
            "model_num_parameters": sum(p.numel() for p in self.model.parameters()),
            "model_dtype": str(self.model.dtype),
            "lorafuse": self.record() | record.asked_of(self.tasks, self.asked),
        }

    def record(self) -> dict[str, Any]:
        """What ran last: the part of a result that is not scores (leaderboards/results/assembly.py reads it)."""
        made = model_info(self.fused, self.data_source)
        return made | {
            "data": made["data"] | record.rows_of(self.tasks),
            "settings": record.settings_of(self.asked, self.model_options),
            "prefix_sharing": self.prefix_sharing,
            "max_length": self.longest,
            "truncation": {
                "rule": RULE,
                "length": self.max_length,
                "answers": dict(sorted(self.shortened.items())),
            },
        }

    # --- log-likelihoods ------------------------------------------------------------------------

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """`(log p(continuation | context), whether greedy decoding gives it)` for each request, with its tokens.

        A continuation that ends in `END` is scored with the model's end of text after it.
        """
        pieces = []
        for request in requests:
            context, continuation = request.args
            whole = continuation.endswith(END)
            continuation = continuation.removesuffix(END)
            if context:
                context_ids, continuation_ids = self._encode_pair(context, continuation)
            else:
                context_ids, continuation_ids = (
                    [self.prefix_token_id],
                    self.tok_encode(continuation, add_special_tokens=False),
                )
            continuation_ids = [*continuation_ids, *([self.eot_token_id] if whole else [])]
            pieces.append(self._pieces(context_ids, continuation_ids, task_key(request.task_name)))
        prompts = [own[0].context for own in pieces for _ in own]
        scores = self._summed(pieces, disable_tqdm, prompts)
        tokens = [sum(len(piece.continuation) for piece in own) for own in pieces]
        return [Likelihood.of(value, greedy, n) for (value, greedy), n in zip(scores, tokens, strict=True)]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """`log p(text)` for each request, in windows of the model's length.

        There is no prompt: a router sees each window whole.
        """
        pieces = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            key = task_key(request.task_name)
            pieces.append(
                [
                    Scored(tuple(context), tuple(continuation), key)
                    for context, continuation in map(make_disjoint_window, windows)
                ]
            )
        prompts = [row.context + row.continuation for own in pieces for row in own]
        return [total for total, _ in self._summed(pieces, disable_tqdm, prompts)]

    def _pieces(self, context: Sequence[int], continuation: Sequence[int], task: str) -> list[Scored]:
        """A request in pieces that fit the model's length, the context's middle cut where need be.

        A continuation that leaves less than half of the length to its context is scored in several
        pieces, each after the context and the pieces before it.
        """
        fits = len(context) + len(continuation) - 1 <= self.max_length
        size = len(continuation) if fits else answer_room(len(continuation), self.max_length)
        pieces = []
        for start in range(0, max(1, len(continuation)), max(1, size)):
            part = tuple(continuation[start : start + size])
            room = self.max_length + 1 - len(part)  # the last token is only scored
            pieces.append(Scored(tuple(truncate([*context, *continuation[:start]], room)), part, task))
        return pieces

    def _summed(
        self, pieces: Sequence[Sequence[Scored]], disable_tqdm: bool, prompts: Sequence[tuple[int, ...]]
    ) -> list[tuple[float, bool]]:
        """Each request's log-probability over its pieces; `prompts`: what each piece is routed by."""
        scores = iter(self._score([row for own in pieces for row in own], disable_tqdm, prompts))
        found = [[next(scores) for _ in own] for own in pieces]
        return [(sum(value for value, _ in own), all(greedy for _, greedy in own)) for own in found]

    def _score(
        self, rows: Sequence[Scored], disable_tqdm: bool, prompts: Sequence[tuple[int, ...]]
    ) -> list[tuple[float, bool]]:
        """Log-probabilities of the continuations, in the order of `rows`, routed by `prompts`."""
        choices = self._choose(prompts, [row.task for row in rows])
        scorer = Scorer(self.fused, self._rows(), self.prefix_sharing)
        kept = self.blocks.call("scores", rows)
        silent, left = disable_tqdm or self.rank != 0, len(rows) - len(kept)
        with self._autocast(), self.bar(total=left, disable=silent, desc="Scoring continuations") as progress:
            return scorer.score(rows, choices, progress.update, kept)

    def _autocast(self) -> torch.autocast:
        dtype = self.mixed_precision_dtype
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None)

    # --- generation -----------------------------------------------------------------------------

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each request's context, up to the first stop that counts (stopping.py)."""
        asked = [self._asked(request) for request in requests]
        choices = self._choose([each.prompt for each in asked], [each.task for each in asked])
        writer = Writer(self.fused, self.tokenizer.pad_token_id, self._rows())
        kept = self.blocks.call("texts", ((each.prompt, each.task, each.alike) for each in asked))
        silent, left = disable_tqdm or self.rank != 0, len(asked) - len(kept)
        with self._autocast(), self.bar(total=left, disable=silent, desc="Generating") as progress:
            return writer.write(asked, choices, progress.update, kept)

    def _asked(self, request: Instance) -> Asked:
        """A request in tokens, with lm-eval's generation settings as the model's own."""
        context, given = request.args
        settings = settings_of(given, self.max_gen_toks)
        eos = self.tok_decode(self.eot_token_id, skip_special_tokens=False)
        stops = tuple(handle_stop_sequences(settings.pop("until", None), eos=eos))
        key, wanted = task_key(request.task_name), settings.pop("max_gen_toks")
        length = answer_room(wanted, self.max_length)
        if length < wanted:
            self.shortened[key] = length
        if not settings["do_sample"]:
            settings.pop("temperature", None)
        return Asked(
            prompt=tuple(
                truncate(self.tok_encode(context) or [self.prefix_token_id], self.max_length - length)
            ),
            task=key,
            length=length,
            ending=Ending(self.tok_decode, stops, self._end_tokens(), self.think_end_token),
            settings=settings,
        )

    def _end_tokens(self) -> frozenset[int]:
        """The tokens that end a text, by the tokenizer and by the model's own generation settings."""
        given = self.model.generation_config.eos_token_id
        others = given if isinstance(given, list) else [given]
        return frozenset(token for token in (self.eot_token_id, *others) if token is not None)

    # --- routing --------------------------------------------------------------------------------

    def _choose(self, prompts: Sequence[tuple[int, ...]], tasks: Sequence[str]) -> list[Tensor] | None:
        """Expert per block `(blocks,)` for each prompt under the current method; None without row routing.

        Equal prompts of one task are routed once.
        """
        unique = sorted(set(zip(prompts, tasks, strict=True)), key=lambda pair: (-len(pair[0]), pair))
        kept = self.blocks.call("choices of experts", unique)
        for batch in batches(range(len(unique)), self._rows()):
            if kept.hold(batch):
                continue
            index = self._select([unique[i] for i in batch])
            if index is None:
                return None
            kept.add(dict(zip(batch, index.tolist(), strict=True)))
        place = {pair: i for i, pair in enumerate(unique)}
        return [
            torch.tensor(kept[place[pair]], device=self.device) for pair in zip(prompts, tasks, strict=True)
        ]

    def _select(self, batch: Sequence[tuple[tuple[int, ...], str]]) -> Tensor | None:
        ids = [torch.tensor(prompt) for prompt, _ in batch]
        return self.fused.select(
            Prompts(
                input_ids=pad_sequence(ids, batch_first=True).to(self.device),
                lengths=torch.tensor([len(x) for x in ids], device=self.device),
                tasks=tuple(task for _, task in batch),
            )
        )

    def _rows(self) -> int:
        return _AUTO_BATCH if self.batch_size == "auto" else int(self.batch_size)
