"""Training MoA routers on frozen experts: a task classifier before every block, prompts only."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lorafuse_bench.device import AUTO, Compute
from lorafuse_bench.errors import LorafuseError
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.files import sha256_file, write_bytes
from lorafuse_bench.fused import FusedModel
from lorafuse_bench.fusion.base import Prompts
from lorafuse_bench.fusion.routing.moa import Pool, pool_hidden, router_logits
from lorafuse_bench.fusion.routing.oracle import Oracle
from lorafuse_bench.layers import BASE
from lorafuse_bench.limits import COUNT, LENGTH, NOT_NEGATIVE, PART, POSITIVE, SEED, Limit
from lorafuse_bench.loading import load_model, load_tokenizer, positions_of
from lorafuse_bench.planning import Work
from lorafuse_bench.progress import counted, current
from lorafuse_bench.tasks.data import resolve_source
from lorafuse_bench.tasks.rows import training_rows
from lorafuse_bench.tasks.suites import suite as suite_of
from lorafuse_bench.training.estimate import of_reading
from lorafuse_bench.training.examples import prompt_of, tokenize
from lorafuse_bench.training.fit_rows import learned_from
from lorafuse_bench.training.records import with_length
from lorafuse_bench.training.settings import Limited
from lorafuse_bench.training.team import alone
from lorafuse_bench.zoo.entries import ExpertEntry, check_name
from lorafuse_bench.zoo.installed import writable
from lorafuse_bench.zoo.manifest import ArtefactEntry, Manifest, Zoo, local_model, weights_sha256
from lorafuse_bench.zoo.pools import named

ROUTER_WEIGHTS = "router.safetensors"

LONGEST = 2048
"""Tokens read where neither zoo nor base sets a bound, as lm-eval does."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class RouterSettings(Limited):
    """How the routers are trained; all of it is recorded in the manifest."""

    limits: ClassVar[dict[str, Limit]] = {
        "seed": SEED,
        "prompts_per_task": COUNT,
        "held_out": PART,
        "hidden": COUNT,
        "steps": COUNT,
        "learning_rate": POSITIVE,
        "weight_decay": NOT_NEGATIVE,
        "cutoff": LENGTH,
        "batch_size": COUNT,
    }

    pool: Pool = "mean"
    seed: int = 0
    prompts_per_task: int = 400
    held_out: float = 0.2
    hidden: int = 32
    steps: int = 300
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    cutoff: int | None = None
    """Longest prompt and target in tokens, the zoo's length from then on; None for what evaluation reads."""
    batch_size: int = 32


def train_router(
    zoo: Zoo,
    settings: RouterSettings,
    name: str | None = None,
    data: str | None = None,
    device: str = AUTO,
    dtype: str = AUTO,
) -> Zoo:
    """Train MoA routers for all experts of a zoo and write them into it; returns the zoo as saved.

    Minimises `Σ_l CE(router_l(h_l), task)` over prompts without targets, with the hidden states `h_l`
    of teacher forcing: all blocks before l run the prompt's own expert (rethinking LoRA merging,
    section 3.3). A block is informative when its accuracy on held-out prompts exceeds the middle
    between chance and the best block's. If some are not, hidden states are taken once more with those
    blocks unadapted, as they are when routing, and the routers are trained on these.
    """
    writable(zoo.root)
    name = check_name(name or f"moa-{settings.pool}", "router")
    if settings.cutoff is not None:
        zoo = Zoo(zoo.root, with_length(zoo.manifest, settings.cutoff))
    fused, tokenizer = load_fused(zoo, device, dtype)
    compute = Compute(fused.model.device, fused.model.dtype)
    settings = replace(settings, cutoff=settings.cutoff or length_of(zoo, fused.model))
    source = resolve_source(data, str(zoo.root))
    prompts, labels = _prompts(zoo, tokenizer, settings, source)
    tensors, learned = learn_routers(fused, prompts, labels, settings)
    record = {**asdict(settings), **compute.record(), "training": "post_hoc", **learned}
    return save_router(zoo, name, tensors, record, source, settings.prompts_per_task)


def learn_routers(
    fused: FusedModel, prompts: Sequence[Sequence[int]], labels: Sequence[int], settings: RouterSettings
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Routers of `prompts` to the experts `labels`, and what is known of their accuracy; see `train_router`."""
    alone("training routers")
    if len(prompts) < 2:
        raise LorafuseError(
            "a router of one prompt cannot be tried on another. Give it 2 rows or more (--rows)."
        )
    fused.use(Oracle())
    order = torch.randperm(len(prompts), generator=torch.Generator().manual_seed(settings.seed))
    held = order[: max(1, int(len(prompts) * settings.held_out))]
    kept = order[len(held) :]
    labels_tensor = torch.tensor(labels)
    unadapted: tuple[int, ...] = ()
    lengths, rows = [len(prompt) for prompt in prompts], settings.batch_size
    once = Work(min(rows, len(prompts)), max(lengths), answer=0, cache=False)
    taken = of_reading(fused.model, -(-len(prompts) // rows), sum(lengths), once)
    current().say(taken.said(f"routers: reading {len(prompts):,} prompts"))
    while True:
        features = block_features(fused, prompts, labels, settings.pool, settings.batch_size, unadapted)
        tensors = fit_routers(
            features[:, kept], labels_tensor[kept], len(fused.pool), settings, fused.model.device
        )
        accuracy = router_accuracy(tensors, features[:, held], labels_tensor[held])
        informative = informative_blocks(accuracy, len(fused.pool))
        if unadapted or len(informative) == len(accuracy):
            break
        unadapted = tuple(block for block in range(fused.base.blocks) if block not in informative)
    _LOGGER.info("router accuracy per block: %s", ", ".join(f"{a:.3f}" for a in accuracy))
    return tensors, accuracy_record(accuracy, len(fused.pool), unadapted)


def check_zoo(zoo: Zoo, suite: str | None = None, base: str | None = None) -> None:
    """LorafuseError unless the zoo can be written, covers `suite` and stands on `base`, where these are given."""
    writable(zoo.root)
    if suite is not None:
        missing = set(suite_of(suite).tasks) - {
            task for expert in zoo.manifest.experts for task in expert.tasks
        }
        if missing:
            raise LorafuseError(
                f"zoo '{zoo.name}' has no expert for {', '.join(sorted(missing))} of suite '{suite}'."
                f" Train them first: lorafuse train experts --suite {suite} --out {zoo.root}"
            )
    if base is not None and weights_sha256(local_model(Path(base), base)) != zoo.manifest.base.sha256:
        raise LorafuseError(
            f"'{base}' is not the base of zoo '{zoo.name}' ({zoo.manifest.base.path}). Leave it out."
        )


def load_fused(zoo: Zoo, device: str = AUTO, dtype: str = AUTO) -> tuple[FusedModel, PreTrainedTokenizerBase]:
    """The zoo's base with all its experts, and its tokenizer."""
    folder = zoo.base_folder()
    compute = Compute.of(device, dtype, folder)
    model = load_model(folder, compute.dtype)
    model.to(compute.device)  # type: ignore[arg-type]
    pool = ExpertPool.from_zoo(zoo).required_by("a router")
    return FusedModel(model, zoo, pool), load_tokenizer(str(folder))


def length_of(zoo: Zoo, model: PreTrainedModel) -> int:
    """The length that evaluation reads prompts at: the zoo's own, else the base's."""
    return zoo.manifest.max_length or positions_of(model.config) or LONGEST


def save_router(
    zoo: Zoo,
    name: str,
    tensors: Mapping[str, Tensor],
    record: Mapping[str, Any],
    source: str,
    limit: int | None,
    adapters: tuple[ExpertEntry, ...] = (),
) -> Zoo:
    """Write a router's tensors and enter it into the manifest, in place of one of the same name.

    It was learned on the first `limit` rows in `source` of every expert's tasks, with the zoo's experts or `adapters`.
    """
    path = zoo.root / "routers" / name / ROUTER_WEIGHTS
    experts = named(zoo)
    tasks = tuple(dict.fromkeys(task for expert in experts for task in expert.tasks))
    hashes = [expert.sha256 for expert in adapters or experts]
    write_bytes(path, save({key: value.contiguous() for key, value in tensors.items()}))
    router = ArtefactEntry(
        name=name,
        method="moa",
        path=f"routers/{name}",
        sha256=sha256_file(path),
        experts=tuple(expert.name for expert in experts),
        settings=dict(record),
        fitted_on=learned_from(zoo, suite_of("/".join(tasks)).name, tasks, hashes, source, limit),
        adapters=adapters,
    )

    def entered(there: Manifest | None) -> Manifest:
        manifest = with_length(there or zoo.manifest, zoo.manifest.max_length)
        routers = {old.name: old for old in manifest.artefacts if old.name != name} | {name: router}
        return manifest.model_copy(update={"artefacts": tuple(routers.values())})

    return Zoo.update(zoo.root, entered)


def fit_routers(
    features: Tensor,
    labels: Tensor,
    experts: int,
    settings: RouterSettings,
    device: torch.device | None = None,
) -> dict[str, Tensor]:
    """All blocks' routers at once from `features (blocks, prompts, h)` and `labels (prompts,)`.

    Returns `w1 (blocks, hidden, h)`, `b1`, `w2 (blocks, N, hidden)`, `b2`. Features are standardised for
    training and the standardisation is folded into the first layer. Computed on `device`, returned on the CPU.
    """
    features, labels = features.to(device), labels.to(device)
    blocks, prompts, width = features.shape
    mean = features.mean(1, keepdim=True)
    # A block whose features do not vary (the same last token everywhere, or one prompt) must not have noise blown up.
    scale = features.std(1, correction=min(1, prompts - 1), keepdim=True).clamp(
        min=1e-3 * features.pow(2).mean().sqrt().item()
    )
    x = (features - mean) / scale
    generator = torch.Generator().manual_seed(settings.seed)

    def draw(*shape: int) -> Tensor:
        drawn = torch.randn(*shape, generator=generator) * shape[-1] ** -0.5
        return drawn.to(device).requires_grad_()

    w1, w2 = draw(blocks, settings.hidden, width), draw(blocks, experts, settings.hidden)
    b1 = torch.zeros(blocks, settings.hidden, device=device, requires_grad=True)
    b2 = torch.zeros(blocks, experts, device=device, requires_grad=True)
    optimizer = torch.optim.AdamW(
        [w1, b1, w2, b2], settings.learning_rate, weight_decay=settings.weight_decay
    )
    for _ in range(settings.steps):
        hidden = F.gelu(torch.einsum("lph,lmh->lpm", x, w1) + b1[:, None])
        logits = torch.einsum("lpm,lem->lpe", hidden, w2) + b2[:, None]
        loss = F.cross_entropy(logits.transpose(1, 2), labels.expand(blocks, -1), reduction="sum") / len(
            labels
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        folded = w1 / scale
        shift = torch.einsum("lmh,lh->lm", folded, mean[:, 0])
        tensors = {"w1": folded, "b1": b1 - shift, "w2": w2, "b2": b2}
    return {key: value.detach().cpu() for key, value in tensors.items()}


def router_accuracy(tensors: Mapping[str, Tensor], features: Tensor, labels: Tensor) -> list[float]:
    """Share of prompts each block's router assigns to their own task."""
    return [
        (router_logits(tensors, block, h).argmax(-1) == labels).float().mean().item()
        for block, h in enumerate(features)
    ]


def informative_blocks(accuracy: Sequence[float], experts: int) -> list[int]:
    """Blocks whose accuracy exceeds the middle between chance and the best one's; the best where none beats chance."""
    chance, best = 1 / experts, max(accuracy)
    if best <= chance:
        return [block for block, value in enumerate(accuracy) if value == best]
    return [block for block, value in enumerate(accuracy) if value > (chance + best) / 2]


def accuracy_record(accuracy: Sequence[float], experts: int, unadapted: Sequence[int] = ()) -> dict[str, Any]:
    """What a manifest says of a router's accuracy: per block, their mean, and the blocks that decide."""
    adapted = [block for block in range(len(accuracy)) if block not in unadapted]
    deciding = [block for block in informative_blocks(accuracy, experts) if block in adapted]
    deciding = deciding or [max(adapted, key=lambda block: accuracy[block])]
    mean = sum(accuracy) / len(accuracy)
    return {"informative_blocks": deciding, "accuracy_per_block": list(accuracy), "accuracy": mean}


def _prompts(
    zoo: Zoo, tokenizer: PreTrainedTokenizerBase, settings: RouterSettings, source: str
) -> tuple[list[list[int]], list[int]]:
    """Token ids and task index of the training prompts of every expert's task."""
    assert settings.cutoff is not None
    ids: list[list[int]] = []
    labels: list[int] = []
    for index, expert in enumerate(named(zoo)):
        for task in expert.tasks:
            rows = training_rows(task, source, limit=settings.prompts_per_task)
            examples = tokenize(rows[: len(rows)], tokenizer, settings.cutoff)
            ids += [prompt_of(example) for example in examples]
            labels += [index] * len(rows)
    return ids, labels


@torch.no_grad()
def block_features(
    fused: FusedModel,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[int],
    pool: Pool,
    batch_size: int,
    unadapted: Sequence[int] = (),
) -> Tensor:
    """Pooled block inputs `(blocks, prompts, h)`, every block but the `unadapted` on the expert `labels` names.

    `fused` must be in a method that routes rows.
    """
    result: list[Tensor | None] = [None] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    for start in counted(range(0, len(order), batch_size), "Reading batches of prompts"):
        batch = order[start : start + batch_size]
        ids = pad_sequence([torch.tensor(prompts[i]) for i in batch], batch_first=True)
        lengths = torch.tensor([len(prompts[i]) for i in batch])
        device = fused.model.device
        rows = Prompts(ids.to(device), lengths.to(device), ("",) * len(batch))
        index = torch.tensor([labels[i] for i in batch], device=device)[:, None].repeat(1, fused.base.blocks)
        index[:, list(unadapted)] = BASE
        pooled: list[Tensor] = []

        def visit(block: int, hidden: Tensor, rows: Prompts = rows, pooled: list[Tensor] = pooled) -> None:
            del block
            pooled.append(pool_hidden(hidden, rows, pool).float().cpu())

        fused.selection.set(index)
        fused.visit_blocks(rows, visit)
        for position, i in enumerate(batch):
            result[i] = torch.stack([block[position] for block in pooled])
    fused.selection.set(None)
    return torch.stack([x for x in result if x is not None], dim=1)
