"""Training MoA's experts and routers together, on mixed batches, as the original MoA does."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from lorafuse_bench.experts import WEIGHTS, ExpertPool
from lorafuse_bench.files import sha256_file, write_bytes, write_json
from lorafuse_bench.fused import FusedModel, block_hooks
from lorafuse_bench.fusion.base import Prompts
from lorafuse_bench.fusion.routing.moa import Pool, pool_hidden, router_logits
from lorafuse_bench.fusion.routing.oracle import Oracle
from lorafuse_bench.layers import FusedModule, RowUpdate
from lorafuse_bench.tasks.rows import training_rows
from lorafuse_bench.training.examples import PadRight, pad_token, tokenize
from lorafuse_bench.training.loop import (
    Progress,
    Report,
    isolated_randomness,
    train,
    training_arguments,
)
from lorafuse_bench.training.routers import (
    accuracy_record,
    block_features,
    load_fused,
    router_accuracy,
    save_router,
)
from lorafuse_bench.training.settings import Schedule
from lorafuse_bench.training.trainable import PartlyTrained
from lorafuse_bench.zoo.manifest import ExpertEntry, Zoo


@dataclass(frozen=True)
class JointSettings(Schedule):
    """How experts and routers are trained together; all of it is recorded in the manifest."""

    pool: Pool = "mean"
    eta: float = 0.1
    """Weight of the routers' loss."""
    steps: int = 2000
    learning_rate: float = 2e-3
    batch_size: int = 16
    hidden: int = 32
    rows_per_task: int | None = None
    held_out: float = 0.05
    """Share of each task's rows kept for the routers' accuracy."""


def train_joint(
    zoo: Zoo,
    settings: JointSettings,
    name: str = "moa-joint",
    data: str | None = None,
    report: Report = print,
) -> Zoo:
    """Train new experts and their routers jointly and write both into the zoo as one router entry.

    Minimises `L_LM + η Σ_l CE(router_l(h_l), task)` (Feng et al. 2024; η per router and averaged over
    blocks, so that η does not hang on the depth). Each row of a mixed batch runs its own task's expert,
    `h_l` is taken from its prompt only. The experts have the ranks, scalings and targets of the zoo's own
    and start from one random A and B = 0; the zoo's own experts are left alone.
    """
    fused, tokenizer = load_fused(zoo)
    work = zoo.root / ".training" / name
    rows: list[dict[str, Any]] = []
    held: list[list[int]] = []
    held_tasks: list[int] = []
    for index, expert in enumerate(fused.pool.experts):
        of_task = training_rows(expert.task, data or zoo.data_source, limit=settings.rows_per_task)
        kept = len(of_task) - max(1, round(settings.held_out * len(of_task)))
        rows += [tokenize(row, tokenizer, settings.cutoff) | {"task": index} for row in of_task[:kept]]
        held += [tokenizer(row.prompt)["input_ids"][-settings.cutoff :] for row in of_task[kept:]]
        held_tasks += [index] * (len(of_task) - kept)
    with isolated_randomness():
        model = JointMoa(fused, settings)
        arguments = training_arguments(work, settings, settings.seed)
        train(model, rows, PadRight(pad_token(tokenizer)), arguments, Progress(f"router {name}", report))
    features = block_features(fused, held, held_tasks, settings.pool, settings.batch_size)
    accuracy = router_accuracy(model.router(), features, torch.tensor(held_tasks))
    record = {**asdict(settings), "training": "joint", **accuracy_record(accuracy, len(fused.pool))}
    saved = save_router(zoo, name, model.router(), record, adapters=_save_experts(zoo, model, name))
    shutil.rmtree(work, ignore_errors=True)
    return saved


class JointMoa(PartlyTrained):
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

        def draw(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * shape[-1] ** -0.5)

        self.w1, self.w2 = (
            draw(fused.blocks, settings.hidden, width),
            draw(fused.blocks, experts, settings.hidden),
        )
        self.b1 = nn.Parameter(torch.zeros(fused.blocks, settings.hidden))
        self.b2 = nn.Parameter(torch.zeros(fused.blocks, experts))

    def router(self) -> dict[str, Tensor]:
        """The routers' tensors, as MoA reads them."""
        return {key: getattr(self, key).detach() for key in ("w1", "b1", "w2", "b2")}

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, task: Tensor
    ) -> dict[str, Tensor]:
        prompts = Prompts(input_ids, (attention_mask.bool() & (labels == -100)).sum(1), ("",) * len(task))
        tensors = {key: getattr(self, key) for key in ("w1", "b1", "w2", "b2")}
        routing: list[Tensor] = []

        def visit(block: int, hidden: Tensor) -> None:
            h = pool_hidden(hidden, prompts, self.settings.pool)
            routing.append(F.cross_entropy(router_logits(tensors, block, h), task))

        self.fused.selection.set(task[:, None].repeat(1, self.fused.blocks))
        with block_hooks(self.fused.layers, visit):
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        language = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return {"loss": language + self.settings.eta * torch.stack(routing).mean()}


def _make_trainable(update: RowUpdate, pool: ExpertPool, module: str, generator: torch.Generator) -> None:
    """Fresh factors: one A for all experts, uniform in ±1/sqrt(in) as PEFT's, and B = 0."""
    bound = update.A.shape[2] ** -0.5
    shared = (torch.rand(update.A.shape[1:], generator=generator) * 2 - 1) * bound
    a = shared.repeat(len(pool) + 1, 1, 1)
    for index, rank in enumerate((*pool.modules[module].ranks, 0)):
        a[index, rank:] = 0
    update.A = nn.Parameter(a)
    update.B_T = nn.Parameter(torch.zeros_like(update.B_T))


def _save_experts(zoo: Zoo, model: JointMoa, name: str) -> tuple[ExpertEntry, ...]:
    """The jointly trained experts as PEFT adapters with the configuration of the zoo's own."""
    entries = []
    for index, (expert, own) in enumerate(zip(model.fused.pool.experts, zoo.manifest.experts, strict=True)):
        tensors = {}
        for module, update in model.updates.items():
            rank = model.fused.pool.modules[module].ranks[index]
            if rank == 0:
                continue
            key = f"base_model.model.{module}"
            a, b = update.A[index, :rank].detach(), update.B_T[index, :rank].T.detach()
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
