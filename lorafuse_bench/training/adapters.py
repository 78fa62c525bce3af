"""Training multi-task adapters: one set of new parameters beside a frozen base, on all tasks of a suite.

`train_adapter` is what `lorafuse train adapter` calls. A finished adapter is never trained again; an
interrupted one goes on from its last checkpoint to the same weights.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorafuse_bench.base_model import Base
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.files import sha256_file, write_bytes, write_json
from lorafuse_bench.fused import ADAPTER_WEIGHTS
from lorafuse_bench.fusion.adapters.trained import (
    TrainedAdapter,
    TrainedUpdate,
    derived_of,
    initialise,
    tensors_of,
)
from lorafuse_bench.layers import Selection, install
from lorafuse_bench.tasks.rows import training_rows
from lorafuse_bench.training.examples import Batches, PadRight, load_tokenizer, pad_token
from lorafuse_bench.training.loop import Progress, Report, isolated_randomness, train
from lorafuse_bench.training.loss import completion_loss
from lorafuse_bench.training.records import base_sha256, portable_base, portable_source, with_length
from lorafuse_bench.training.settings import Decay, Schedule
from lorafuse_bench.zoo.manifest import AdapterEntry, BaseEntry, Manifest, Zoo, local_model

CONFIG = "adapter.json"
SLOW_OPERATIONS = 1e11
"""Half a minute on one core."""


@dataclass(frozen=True)
class AdapterSettings(Schedule):
    """How an adapter is trained: AdamW, linear warm-up, a constant rate, linear decay (MoORE, Table 7)."""

    learning_rate: float = 3e-4
    decay: Decay = "stable"
    epochs: float | None = 2.0
    """Passes over the rows; None to train for `steps`."""
    bf16: bool = False
    """Hold the base and compute in bf16; what is trained stays in fp32."""
    rows: int | None = None
    """Rows per task at most; all when None."""


def train_adapter(
    method: TrainedAdapter,
    suite: str,
    keys: Sequence[str],
    base: str,
    out: Path,
    source: str,
    settings: AdapterSettings,
    report: Report = print,
) -> AdapterEntry:
    """Train an adapter on the tasks `keys`, called `suite`, and enter it into the manifest of the zoo at `out`.

    base: a model folder, a hub id or `mini`. source: `hub`, `mini` or a data directory. Raises LorafuseError
    when `out` is a zoo of another base, or holds this adapter trained otherwise.
    """
    zoo = _zoo(base, out, source, settings.seed, settings.cutoff)
    name = adapter_name(method, suite)
    record = {
        "method": method.name,
        "options": trained_options(method),
        "trained_on": suite,
        "tasks": list(keys),
        "base_sha256": zoo.manifest.base.sha256,
        "settings": {"source": portable_source(source, out), **asdict(settings)},
    }
    folder = out / "adapters" / name
    if not _finished(folder, record):
        work = out / ".training" / f"adapter-{_sha256(record)[:16]}"
        described = _train(method, keys, base, source, settings, work, f"adapter {name}", report)
        _finish(work / "finished", folder, record | described)
        shutil.rmtree(work, ignore_errors=True)
    else:
        report(f"adapter {name}: already trained, kept")
    return enter(zoo, name)


def _train(
    method: TrainedAdapter,
    keys: Sequence[str],
    base: str,
    source: str,
    settings: AdapterSettings,
    work: Path,
    what: str,
    report: Report,
) -> dict[str, Any]:
    """Train into `work/finished`; what became of it."""
    source_model = str(local_model(Path(base), base))
    tokenizer = load_tokenizer(source_model)
    tasks = [training_rows(key, source, limit=settings.rows) for key in keys]
    batches = Batches(tasks, tokenizer, settings.cutoff, settings.batch_size, settings.seed)
    if settings.epochs is not None:
        settings = replace(settings, steps=math.ceil(settings.epochs * batches.per_epoch))
    with isolated_randomness():
        model = AdapterTraining(load_base(source_model, settings.bf16), method, len(keys), settings.seed)
        trained = train(
            model,
            batches,
            PadRight(pad_token(tokenizer)),
            settings,
            work,
            Progress(what, report),
            torch.bfloat16 if settings.bf16 else torch.float32,
        )
    save_tensors(work / "finished", model.updates)
    return {
        "steps": settings.steps,
        "rows": batches.rows,
        "loss": trained.loss,
        "parameters": sum(update.size for update in model.updates.values()),
    }


class AdapterTraining(nn.Module):
    """A base with an adapter to train: `forward` returns the loss."""

    def __init__(self, model: PreTrainedModel, method: TrainedAdapter, tasks: int, seed: int) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.selection = Selection()
        base = Base(model)
        self.blocks = base.blocks
        self.updates: Mapping[str, TrainedUpdate] = method.attach(base, tasks, self.selection)
        initialise(self.updates, seed)
        install(model, base.modules, self.updates)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        task: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> dict[str, Tensor]:
        """Completion loss and auxiliary losses of a portion, weighted by its share of the batch's targets.

        Summed over the portions this is the loss of the batch, however it is divided. Auxiliary losses are
        averaged over the routers, so that their weight does not hang on the depth.
        """
        self.selection.set(task[:, None].repeat(1, self.blocks))
        language, own = completion_loss(
            self.model, labels, input_ids=input_ids, attention_mask=attention_mask
        )
        losses = [update.auxiliary(attention_mask.bool()) for update in self.updates.values()]
        present = [loss for loss in losses if loss is not None]
        if present:
            language = language + own * torch.stack(present).mean()
        return {"loss": language / (own if num_items_in_batch is None else num_items_in_batch)}


def load_base(folder: str, bf16: bool) -> PreTrainedModel:
    """The base on the accelerator, where there is one."""
    dtype = torch.bfloat16 if bf16 else torch.float32
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return model.to(device)  # type: ignore[arg-type]


def trained_options(method: TrainedAdapter) -> dict[str, Any]:
    """The options that shape what is trained."""
    return {key: value for key, value in method.options().items() if key != "trained_on"}


def adapter_name(method: TrainedAdapter, suite: str) -> str:
    """`moore/mtl7`, or `moore/mtl7-d_t=16-reflections=2` with the options that differ from default.

    The tasks of a suite by name are joined by +.
    """
    changed = replace(method, trained_on=None).label().partition(":")[2]
    return f"{method.name}/{suite.replace('/', '+')}" + "".join(
        f"-{part.replace('/', '_')}" for part in changed.split("+") if part
    )


def save_tensors(folder: Path, updates: Mapping[str, TrainedUpdate]) -> None:
    """Write all parameters of an adapter, and what it derived from the base where that takes long.

    MoORE's SVD of an (out, in) map costs in proportion to the numbers in U and V times their rank; where these sum
    to SLOW_OPERATIONS or more, the decompositions are kept, which take about twice the base's size.
    """
    tensors = tensors_of(updates)
    derived = derived_of(updates)
    if (
        sum(value.numel() * min(value.shape) for value in derived.values() if value.dim() == 2)
        >= SLOW_OPERATIONS
    ):
        tensors |= derived
    tensors = {key: value.cpu().contiguous() for key, value in tensors.items()}
    write_bytes(folder / ADAPTER_WEIGHTS, save(tensors))


def enter(zoo: Zoo, name: str) -> AdapterEntry:
    """Describe the adapter in `adapters/<name>` in the manifest, in place of one of the same name."""
    folder = zoo.root / "adapters" / name
    record = json.loads((folder / CONFIG).read_text())
    described = {key: record[key] for key in ("steps", "rows", "loss")}
    entry = AdapterEntry(
        name=name,
        path=f"adapters/{name}",
        sha256=sha256_file(folder / ADAPTER_WEIGHTS),
        settings=record["settings"] | {"trained": described},
        **{key: record[key] for key in ("method", "options", "trained_on", "base_sha256", "parameters")},
        tasks=tuple(record["tasks"]),
    )
    adapters = {old.name: old for old in zoo.manifest.adapters} | {name: entry}
    Zoo(zoo.root, zoo.manifest.model_copy(update={"adapters": tuple(adapters.values())})).save()
    return entry


def _zoo(base: str, out: Path, source: str, seed: int, cutoff: int) -> Zoo:
    """The zoo at `out`, or a new one without experts."""
    sha256 = base_sha256(base)
    if (out / "manifest.json").is_file():
        zoo = Zoo.open(out)
        if zoo.manifest.base.sha256 != sha256:
            raise LorafuseError(
                f"'{base}' is not the base of zoo '{zoo.name}' ({zoo.manifest.base.path})."
                " Leave it out, or use another --out."
            )
        return Zoo(out, with_length(zoo.manifest, cutoff))
    manifest = Manifest(
        schema="lorafuse.zoo/1",
        name=out.resolve().name,
        seed=seed,
        base=BaseEntry(path=portable_base(base, out), sha256=sha256),
        init="shared",
        data=portable_source(source, out),
        max_length=cutoff,
    )
    return Zoo(out, manifest)


def _finished(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether this adapter is there; LorafuseError when one of the same name was trained otherwise."""
    if not (folder / CONFIG).is_file():
        return False
    found = json.loads((folder / CONFIG).read_text())
    for field, value in record.items():
        if found.get(field) != value:
            raise LorafuseError(
                f"{folder} was trained with another {field} than asked for now."
                " Use another --out, or delete that folder to train it again."
            )
    return True


def _finish(ready: Path, folder: Path, record: Mapping[str, Any]) -> None:
    """Complete the folder `ready` and move it into place in one step."""
    write_json(ready / CONFIG, record)
    folder.parent.mkdir(parents=True, exist_ok=True)
    os.replace(ready, folder)


def _sha256(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
