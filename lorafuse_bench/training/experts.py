"""Training LoRA experts, one per task, on any base and any data source.

`train_experts` is what `lorafuse train experts` and the build of the mini zoo call. An expert that is
finished is never trained again; an interrupted one goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file, write_json
from lorafuse_bench.tasks.rows import Row, training_rows
from lorafuse_bench.zoo.manifest import (
    EMBEDDED,
    BaseEntry,
    ExpertEntry,
    Manifest,
    Zoo,
    embedded_root,
    local_model,
    weights_sha256,
)

Report = Callable[[str], None]
RECORD = "training.json"


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    learning_rate: float = 1e-4
    steps: int = 1000
    batch_size: int = 8
    warmup_share: float = 0.05
    checkpoints: int = 4
    """How many times a run is saved on its way."""
    cutoff: int = 512
    """Longest row in tokens; a longer prompt loses its beginning."""
    seed: int = 0


@dataclass(frozen=True)
class ExpertSettings(Schedule):
    """How every expert of a zoo is trained."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    rows: int | None = None
    """Rows of the training split to use; all when None."""
    init: Literal["shared", "independent"] = "shared"
    """Whether all experts start from one A, so that averaging factors means something."""


def train_experts(
    base: str,
    keys: Sequence[str],
    out: Path,
    source: str,
    settings: ExpertSettings,
    *,
    name: str | None = None,
    workers: int = 1,
    report: Report = print,
) -> Zoo:
    """Train one expert per task key into the zoo at `out` and describe them in its manifest.

    base: a model folder or hub id. source: `hub`, `mini` or a data directory. workers: experts trained at
    a time, each in a single-threaded process of its own when more than one.
    Raises LorafuseError when `out` holds experts of other settings or of another base.
    """
    base_sha256(base)  # a base that is not there is said before any rows are fetched
    waiting = [key for key in keys if not _finished(base, key, out, source, settings)]
    for key in keys:
        if key not in waiting:
            report(f"expert {key}: already trained, kept")
    if workers == 1:
        for key in waiting:
            train_expert(base, key, out, source, settings, report)
            _write_manifest(base, out, source, settings, name)
    else:
        for key in _in_processes(base, waiting, out, source, settings, workers):
            report(f"expert {key}: done")
            _write_manifest(base, out, source, settings, name)
    return _write_manifest(base, out, source, settings, name)


def train_expert(
    base: str, key: str, out: Path, source: str, settings: ExpertSettings, report: Report = print
) -> None:
    """Train the expert of one task into `out/experts/<key>`, resuming an interrupted run."""
    rows = training_rows(key, source, limit=settings.rows)
    work = out / ".training" / key
    with isolated_randomness():
        folder = str(local_model(Path(base), base))
        tokenizer = load_tokenizer(folder)
        examples = [tokenize(row, tokenizer, settings.cutoff) for row in rows]
        model = new_expert(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), key, settings)
        initial = initial_sha256(model)
        arguments = training_arguments(work, settings, seed_of(key, settings.seed))
        loss = train(
            model, examples, PadRight(pad_token(tokenizer)), arguments, Progress(f"expert {key}", report)
        )
    record = _identity(base, key, portable_source(source, out), settings) | {
        "rows": len(rows),
        "loss": loss,
        "initial_a_sha256": initial,
        "relative_update_norm": relative_update_norm(model),
    }
    # An adapter names its base as the manifest does: a zoo must not hold paths of one machine.
    model.peft_config["default"].base_model_name_or_path = portable_base(base, out)
    _finish(model, record, work, out / "experts" / key)


def new_expert(model: PreTrainedModel, key: str, settings: ExpertSettings) -> PeftModel:
    """The base with a fresh LoRA; `init=shared` gives every task the same A."""
    seed = settings.seed if settings.init == "shared" else seed_of(key, settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def tokenize(row: Row, tokenizer: PreTrainedTokenizerBase, cutoff: int) -> dict[str, list[int]]:
    """Prompt then target then end of text; only the target is learnt (labels -100 before it).

    The two are tokenised apart, as in evaluation. A target longer than half the cutoff loses its end, a
    prompt that is too long for the rest loses its beginning.
    """
    prompt = tokenizer(row.prompt)["input_ids"]
    target = tokenizer(row.target, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    target = target[: cutoff // 2]
    prompt = prompt[-(cutoff - len(target)) :]
    return {"input_ids": prompt + target, "labels": [-100] * len(prompt) + target}


class PadRight:
    """Collates examples of different lengths into one batch; padding is neither attended to nor learnt.

    Where examples say which task they are of, the batch does.
    """

    def __init__(self, pad: int) -> None:
        self.pad = pad

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        width = max(len(example["input_ids"]) for example in examples)

        def padded(name: str, fill: int) -> Tensor:
            return torch.tensor([e[name] + [fill] * (width - len(e[name])) for e in examples])

        ids, labels = padded("input_ids", self.pad), padded("labels", -100)
        lengths = torch.tensor([[len(example["input_ids"])] for example in examples])
        batch = {"input_ids": ids, "labels": labels, "attention_mask": (torch.arange(width) < lengths).long()}
        if "task" in examples[0]:
            batch["task"] = torch.tensor([example["task"] for example in examples])
        return batch


class Progress(TrainerCallback):
    """Says about ten times per run how far `what` is."""

    def __init__(self, what: str, report: Report) -> None:
        self.what, self.report = what, report

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % max(1, state.max_steps // 10) == 0 or state.global_step == state.max_steps:
            self.report(f"{self.what}: step {state.global_step}/{state.max_steps}")


def relative_update_norm(model: PeftModel) -> float:
    """Mean over adapted modules of ‖ΔW‖_F / ‖W‖_F, ΔW = s·B@A."""
    ratios = []
    for module in model.modules():
        if hasattr(module, "get_delta_weight") and hasattr(module, "get_base_layer"):
            update = module.get_delta_weight("default").detach()
            ratios.append(update.norm() / module.get_base_layer().weight.detach().norm())
    return float(torch.stack(ratios).mean())


def initial_sha256(model: PeftModel) -> str:
    """Hash over all A of a fresh LoRA, so that a manifest can show that experts share it."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if "lora_A" in name:
            digest.update(name.encode() + parameter.detach().float().numpy().tobytes())
    return digest.hexdigest()


def seed_of(key: str, seed: int) -> int:
    """A seed for one task, the same in every process."""
    return int.from_bytes(hashlib.sha256(f"{key} {seed}".encode()).digest()[:4], "big")


def load_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The base's tokenizer; LorafuseError when there is no such model."""
    try:
        return AutoTokenizer.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise LorafuseError(
            f"base model '{base}' cannot be loaded: {str(error).splitlines()[0]}"
            " Name a model folder or a hub id."
        ) from error


def pad_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills batches; masked, so any will do."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)


@contextmanager
def isolated_randomness() -> Iterator[None]:
    """Put torch's global generator back afterwards: the Trainer seeds it."""
    with torch.random.fork_rng():
        yield


def training_arguments(work: Path, settings: Schedule, seed: int, **changes: Any) -> TrainingArguments:
    """Linear warm-up and decay, a few checkpoints on the way, nothing logged or drawn; `changes` override."""
    arguments: dict[str, Any] = {
        "output_dir": str(work),
        "per_device_train_batch_size": settings.batch_size,
        "max_steps": settings.steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": round(settings.warmup_share * settings.steps),
        "save_steps": max(1, settings.steps // settings.checkpoints),
        "save_total_limit": 1,
        "seed": seed,
        "data_seed": seed,
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    return TrainingArguments(**(arguments | changes))


def train(
    model: torch.nn.Module,
    rows: list[dict[str, Any]],
    collator: PadRight,
    arguments: TrainingArguments,
    progress: Progress,
) -> float:
    """Train to the end, from the last checkpoint where there is one; the mean loss."""
    trainer = Trainer(
        model=model, args=arguments, train_dataset=rows, data_collator=collator, callbacks=[progress]
    )
    trainer.remove_callback(PrinterCallback)  # prints a dictionary at the end
    work = Path(str(arguments.output_dir))
    checkpoint = get_last_checkpoint(str(work)) if work.is_dir() else None
    return float(trainer.train(resume_from_checkpoint=checkpoint).training_loss)


def _identity(base: str, key: str, source: str, settings: ExpertSettings) -> dict[str, Any]:
    """What makes a trained expert this one: a run that differs in any of it is another expert."""
    described = {**asdict(settings), "targets": list(settings.targets)}
    return {"task": key, "base_sha256": base_sha256(base), "source": source, "settings": described}


def _finished(base: str, key: str, out: Path, source: str, settings: ExpertSettings) -> bool:
    """Whether `out` holds this expert; LorafuseError when it holds another of the same name."""
    path = out / "experts" / key / RECORD
    if not path.is_file():
        return False
    record = json.loads(path.read_text())
    wanted = _identity(base, key, portable_source(source, out), settings)
    for field, value in wanted.items():
        if record.get(field) != value:
            raise LorafuseError(
                f"{path.parent} was trained with another {field} than asked for now."
                f" Use another --out, or delete that folder to train it again."
            )
    return True


def _finish(model: PeftModel, record: dict[str, Any], work: Path, folder: Path) -> None:
    """Save adapter and record beside the final folder, move them there in one step, drop checkpoints."""
    ready = work / "finished"
    model.save_pretrained(str(ready), safe_serialization=True)
    (ready / "README.md").unlink(missing_ok=True)
    write_json(ready / RECORD, record)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(ready, folder)
    shutil.rmtree(work)


def _in_processes(
    base: str, keys: list[str], out: Path, source: str, settings: ExpertSettings, workers: int
) -> Iterator[str]:
    """Train experts in single-threaded processes of their own, yielding each key when it is done."""
    # Two processes with two threads each fight over two cores; a child reads these when it imports torch.
    before = {name: os.environ.get(name) for name in SINGLE_THREAD}
    os.environ.update(SINGLE_THREAD)
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            runs = [(key, pool.submit(train_expert, base, key, out, source, settings)) for key in keys]
            for key, run in runs:
                run.result()
                yield key
    finally:
        for variable, value in before.items():
            if value is None:
                del os.environ[variable]
            else:
                os.environ[variable] = value


SINGLE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def base_sha256(base: str) -> str:
    """Hash of the base's weights, in its folder or in the hub's cache."""
    return weights_sha256(local_model(Path(base), base))


def portable_base(base: str, out: Path) -> str:
    """How a zoo at `out` names its base: a hub id, or a folder relative to the zoo."""
    return os.path.relpath(Path(base).resolve(), out.resolve()) if Path(base).is_dir() else base


def portable_source(source: str, out: Path) -> str:
    """How a zoo at `out` names its data: `hub`, `mini`, or a folder relative to the zoo."""
    if source in ("hub", EMBEDDED):
        return source
    if Path(source).resolve() == (embedded_root() / "data").resolve():
        return EMBEDDED
    return os.path.relpath(Path(source).resolve(), out.resolve())


def _write_manifest(base: str, out: Path, source: str, settings: ExpertSettings, name: str | None) -> Zoo:
    """Describe every finished expert below `out`, keeping what the manifest says of other parts."""
    records = {
        p.parent.name: json.loads(p.read_text()) for p in sorted((out / "experts").glob(f"*/{RECORD}"))
    }
    sha256 = base_sha256(base)
    entries = tuple(
        ExpertEntry(
            name=key,
            task=record["task"],
            path=f"experts/{key}",
            sha256=sha256_file(out / "experts" / key / "adapter_model.safetensors"),
            base_sha256=record["base_sha256"],
        )
        for key, record in records.items()
    )
    where = portable_base(base, out)
    kept = Zoo.open(out).manifest if (out / "manifest.json").is_file() else None
    manifest = Manifest(
        schema="lorafuse.zoo/1",
        name=name or (kept.name if kept else out.resolve().name),
        seed=settings.seed,
        base=BaseEntry(path=where, revision=None, sha256=sha256),
        init=settings.init,
        experts=entries,
        routers=kept.routers if kept else (),
        adapters=kept.adapters if kept else (),
        data=portable_source(source, out),
        training={**(kept.training if kept else {}), "experts": records},
    )
    zoo = Zoo(out, manifest)
    zoo.save()
    return zoo
