"""Training MoA's experts and routers together, on mixed batches, as the original MoA does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.files import sha256_file, write_bytes, write_json
from lorafuse_bench.fused import FusedModel, block_hooks
from lorafuse_bench.fusion.base import Prompts
from lorafuse_bench.fusion.routing.moa import Pool, pool_hidden, router_logits
from lorafuse_bench.fusion.routing.oracle import Oracle
from lorafuse_bench.layers import FusedModule, RowUpdate
from lorafuse_bench.limits import COUNT, NOT_NEGATIVE, PART, Limit
from lorafuse_bench.peft_tensors import WEIGHTS
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.rows import Row, training_rows
from lorafuse_bench.training.examples import Batches, Head, PadRight, pad_token, prompt_of, tokenize
from lorafuse_bench.training.loop import Progress, Report, Trainable, isolated_randomness, train
from lorafuse_bench.training.loss import completion_loss
from lorafuse_bench.training.records import ROWS, check_positions, with_length, work_folder
from lorafuse_bench.training.router_training import (
    accuracy_record,
    block_features,
    load_fused,
    router_accuracy,
    save_router,
)
from lorafuse_bench.training.settings import Schedule
from lorafuse_bench.zoo.entries import check_name
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import ExpertEntry, Zoo

HELD_OUT = 400


@dataclass(frozen=True)
class JointSettings(Schedule):
    """How experts and routers are trained together; all of it is recorded in the manifest."""

    limits: ClassVar[dict[str, Limit]] = Schedule.limits | {
        "eta": NOT_NEGATIVE,
        "hidden": COUNT,
        "rows_per_task": COUNT,
        "held_out": PART,
    }

    pool: Pool = "mean"
    eta: float = 0.1
    """Weight of the routers' loss."""
    steps: int = 2000
    learning_rate: float = 2e-3
    batch_size: int = 16
    hidden: int = 32
    rows_per_task: int | None = None
    held_out: float = 0.05
    """Share of each task's rows kept for the routers' accuracy, but HELD_OUT rows at most."""


def train_joint(
    zoo: Zoo,
    settings: JointSettings,
    name: str = "moa-joint",
    data: str | None = None,
    report: Report = print,
    device: str = AUTO,
    dtype: str = AUTO,
) -> Zoo:
    """Train new experts and their routers jointly and write both into the zoo as one router entry.

    Minimises `L_LM + η Σ_l CE(router_l(h_l), task)` (Feng et al. 2024; η per router and averaged over
    blocks, so that η does not depend on the depth). Each row of a mixed batch runs its own task's expert,
    `h_l` is taken from its prompt only. The experts have the ranks, scalings and targets of the zoo's own
    and start from one random A and B = 0; the zoo's own experts are left alone.
    """
    writable(zoo.root)
    check_name(name, "router")
    zoo = Zoo(zoo.root, with_length(zoo.manifest, settings.cutoff))
    check_positions(zoo.find_base(), settings.cutoff)
    fused, tokenizer = load_fused(zoo, device, dtype)
    compute = Compute(fused.model.device, fused.model.dtype)
    source = resolve_source(data, str(zoo.root))
    hashes: dict[str, str] = {}
    tasks: list[Sequence[Row]] = []
    held: list[list[int]] = []
    held_tasks: list[int] = []
    for index, expert in enumerate(fused.pool.experts):
        rows = training_rows(expert.tasks[0], source, limit=settings.rows_per_task)
        hashes[expert.name] = rows.sha256(len(rows))
        count = min(max(1, round(settings.held_out * len(rows))), HELD_OUT)
        tasks.append(Head(rows, len(rows) - count))
        examples = tokenize(rows[len(rows) - count :], tokenizer, settings.cutoff)
        held += [prompt_of(example) for example in examples]
        held_tasks += [index] * count
    learned = {"base": zoo.manifest.base.sha256, "data": source, ROWS: hashes}
    work = work_folder(zoo.root, name, learned | asdict(settings))
    with isolated_randomness():
        model = JointMoa(fused, settings)
        batches = Batches(tasks, tokenizer, settings.cutoff, settings.batch_size, settings.seed)
        progress = Progress(f"router {name}", report)
        train(model, batches, PadRight(pad_token(tokenizer)), settings, work, progress, compute.dtype)
    router, adapters = model.router(), _save_experts(zoo, model, name)
    for update in model.updates.values():  # from here on as evaluation computes
        update.to(dtype=compute.dtype)
    features = block_features(fused, held, held_tasks, settings.pool, settings.batch_size)
    accuracy = router_accuracy(router, features, torch.tensor(held_tasks))
    record = {**asdict(settings), **compute.record(), "training": "joint"}
    record |= accuracy_record(accuracy, len(fused.pool))
    saved = save_router(zoo, name, router, record, source, settings.rows_per_task, adapters)
    shutil.rmtree(work, ignore_errors=True)
    return saved


class JointMoa(Trainable):
    """The base with trainable experts and routers; `forward` returns the joint loss."""

    def __init__(self, fused: FusedModel, settings: JointSettings) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(settings.seed)
        fused.model.requires_grad_(False)
        fused.use(Oracle())
        self.fused = fused
        self.model = fused.model
        self.settings = settings
        self.updates: dict[str, RowUpdate] = {}
        for module, layer in fused.model.named_modules():
            if isinstance(layer, FusedModule):
                assert isinstance(layer.update, RowUpdate)
                self.updates[module] = layer.update
                _make_trainable(layer.update, fused.pool, module, generator)
        width, experts = fused.model.config.get_text_config().hidden_size, len(fused.pool)

        device = fused.model.device

        def draw(*shape: int) -> nn.Parameter:
            drawn = torch.randn(*shape, generator=generator) * shape[-1] ** -0.5
            return nn.Parameter(drawn.to(device))

        self.w1, self.w2 = (
            draw(fused.base.blocks, settings.hidden, width),
            draw(fused.base.blocks, experts, settings.hidden),
        )
        self.b1 = nn.Parameter(torch.zeros(fused.base.blocks, settings.hidden, device=device))
        self.b2 = nn.Parameter(torch.zeros(fused.base.blocks, experts, device=device))

    def network(self) -> PreTrainedModel:
        self.fused.selection.set(torch.zeros(1, self.fused.base.blocks, dtype=torch.long))
        return self.model

    def router(self) -> dict[str, Tensor]:
        """The routers' tensors, as MoA reads them."""
        return {key: getattr(self, key).detach().cpu() for key in ("w1", "b1", "w2", "b2")}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        task: Tensor,
        num_items_in_batch: int | None = None,
    ) -> dict[str, Tensor]:
        """The joint loss of a portion, weighted by its share of the batch's targets."""
        prompts = Prompts(input_ids, (attention_mask.bool() & (labels == -100)).sum(1), ("",) * len(task))
        tensors = {key: getattr(self, key) for key in ("w1", "b1", "w2", "b2")}
        routing: list[Tensor] = []

        def visit(block: int, hidden: Tensor) -> None:
            h = pool_hidden(hidden, prompts, self.settings.pool)
            routing.append(F.cross_entropy(router_logits(tensors, block, h), task))

        self.fused.selection.set(task[:, None].repeat(1, self.fused.base.blocks))
        with block_hooks(self.fused.base.layers, visit):
            language, own = completion_loss(
                self.model, labels, input_ids=input_ids, attention_mask=attention_mask
            )
        joint = language + own * self.settings.eta * torch.stack(routing).mean()
        return {"loss": joint / (own if num_items_in_batch is None else num_items_in_batch)}


def _make_trainable(update: RowUpdate, pool: ExpertPool, module: str, generator: torch.Generator) -> None:
    """Fresh factors: one A for all experts, uniform in ±1/sqrt(in) as PEFT's, and B = 0."""
    bound = update.A.shape[2] ** -0.5
    shared = (torch.rand(update.A.shape[1:], generator=generator) * 2 - 1) * bound
    a = shared.repeat(len(pool), 1, 1)
    for index, rank in enumerate(pool.modules[module].ranks):
        a[index, rank:] = 0
    update.A = nn.Parameter(a.to(update.B_T.device))
    update.B_T = nn.Parameter(torch.zeros_like(update.B_T, dtype=torch.float32))


def _save_experts(zoo: Zoo, model: JointMoa, name: str) -> tuple[ExpertEntry, ...]:
    """The jointly trained experts as PEFT adapters with the configuration of the zoo's own."""
    entries = []
    described = {entry.name: entry for entry in zoo.manifest.experts}
    for index, expert in enumerate(model.fused.pool.experts):
        own = described[expert.name]
        tensors = {}
        for module, update in model.updates.items():
            rank = model.fused.pool.modules[module].ranks[index]
            if rank == 0:
                continue
            key = f"base_model.model.{module}"
            a, b = update.A[index, :rank].detach().cpu(), update.B_T[index, :rank].T.detach().cpu()
            tensors[f"{key}.lora_A.weight"] = a.contiguous()
            tensors[f"{key}.lora_B.weight"] = (b / expert.scaling[module]).contiguous()
        path = f"routers/{name}/experts/{expert.name}"
        write_bytes(zoo.root / path / WEIGHTS, save(tensors))
        write_json(
            zoo.root / path / "adapter_config.json",
            json.loads((zoo.root / own.path / "adapter_config.json").read_text()),
        )
        digest = sha256_file(zoo.root / path / WEIGHTS)
        entries.append(own.model_copy(update={"path": path, "sha256": digest}))
    return tuple(entries)
