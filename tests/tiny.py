"""Tiny zoos with random weights, for tests: three architectures, any ranks, alphas and targets."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorafuse_bench.base_model import Base
from lorafuse_bench.files import sha256_file
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.adapters.trained import TrainedAdapter, TrainedUpdate, initialise
from lorafuse_bench.layers import Selection
from lorafuse_bench.testing.toys import TARGETS, byte_tokenizer, tiny_model
from lorafuse_bench.training.adapter_records import CONFIG, adapter_name, enter, save_tensors, trained_options
from lorafuse_bench.zoo.manifest import ArtefactEntry, BaseEntry, ExpertEntry, Manifest, Zoo, weights_sha256

TASKS = ("sst2", "mnli", "squad", "piqa", "paws", "wmt14_en_de", "cnn_dailymail")
ATTENTION = TARGETS


def write_adapter(
    folder: Path,
    model: PreTrainedModel,
    targets: Sequence[str],
    rank: int = 4,
    alpha: float = 8,
    seed: int = 0,
    layers: Sequence[int] | None = None,
    **config: object,
) -> None:
    """A random PEFT adapter on the modules whose last name component is among `targets`."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, module in model.named_modules():
        block = next((int(part) for part in name.split(".") if part.isdigit()), 0)
        weight = getattr(module, "weight", None)
        if (
            name.rsplit(".", 1)[-1] not in targets
            or weight is None
            or (layers is not None and block not in layers)
        ):
            continue
        out, into = weight.T.shape if type(module).__name__ == "Conv1D" else weight.shape
        prefix = f"base_model.model.{name}"
        tensors[f"{prefix}.lora_A.weight"] = torch.randn(rank, into, generator=generator) * into**-0.5
        tensors[f"{prefix}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.3
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": alpha, "bias": "none"}
    settings["target_modules"] = list(targets)
    settings["fan_in_fan_out"] = model.config.model_type == "gpt2"
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))


def tiny_zoo(
    root: Path,
    architecture: str = "qwen2",
    experts: int = 3,
    mixed: bool = False,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Zoo:
    """A zoo of random experts on a random base in `dtype`; `mixed` gives unequal ranks, alphas, rsLoRA and targets."""
    model = tiny_model(architecture, seed=seed).to(dtype)  # type: ignore[arg-type]
    model.save_pretrained(root / "base")
    byte_tokenizer().save_pretrained(root / "base")
    base = weights_sha256(root / "base")
    entries = []
    for i, task in enumerate(TASKS[:experts]):
        targets = ATTENTION[architecture]
        kwargs: dict[str, object] = {}
        if mixed:
            targets = targets[i % 2 :]
            kwargs = {"rank": 2 + 2 * (i % 3), "alpha": 4 + 3 * i, "use_rslora": i % 2 == 1}
        folder = root / "experts" / task
        write_adapter(folder, model, targets, seed=seed * 100 + i + 1, **kwargs)  # type: ignore[arg-type]
        digest = sha256_file(folder / "adapter_model.safetensors")
        entries.append(
            ExpertEntry(name=task, task=task, path=f"experts/{task}", sha256=digest, base_sha256=base)
        )
    manifest = Manifest(
        name="tiny",
        seed=seed,
        base=BaseEntry(path="base", sha256=base),
        init="independent",
        experts=tuple(entries),
        data="hub",
    )
    zoo = Zoo(root, manifest)
    zoo.save()
    return zoo


def add_router(
    zoo: Zoo, name: str | None = None, pool: str = "last", seed: int = 0, **settings: object
) -> Zoo:
    """The zoo with a random MoA router: which expert it picks depends on the prompt alone."""
    name = name or f"moa-{pool}"
    generator = torch.Generator().manual_seed(seed)
    model = json.loads((zoo.root / "base" / "config.json").read_text())
    blocks = model.get("num_hidden_layers") or model["n_layer"]
    names = tuple(entry.name for entry in zoo.manifest.experts)
    width = model.get("hidden_size") or model["n_embd"]
    tensors = {
        "w1": torch.randn(blocks, 16, width, generator=generator) * 4,
        "b1": torch.zeros(blocks, 16),
        "w2": torch.randn(blocks, len(names), 16, generator=generator),
        "b2": torch.zeros(blocks, len(names)),
    }
    folder = zoo.root / "routers" / name
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "router.safetensors")
    entry = ArtefactEntry(
        name=name,
        method="moa",
        path=f"routers/{name}",
        sha256=sha256_file(folder / "router.safetensors"),
        experts=names,
        settings={
            "pool": pool,
            "training": "post_hoc",
            "informative_blocks": list(range(blocks)),
            **settings,
        },
    )
    routers = (*zoo.manifest.artefacts, entry)
    zoo = Zoo(zoo.root, zoo.manifest.model_copy(update={"artefacts": routers}))
    zoo.save()
    return zoo


def add_adapter(
    zoo: Zoo, spec: str, tasks: Sequence[str] = TASKS[:2], suite: str = "two", seed: int = 0
) -> Zoo:
    """The zoo with a trained adapter whose parameters are random."""
    method = registry.parse(spec)
    assert isinstance(method, TrainedAdapter)
    model = AutoModelForCausalLM.from_pretrained(zoo.base_folder(), dtype=torch.float32)
    updates = method.attach(Base(model), len(tasks), Selection())
    initialise(updates, seed)
    disturb(updates.values(), seed)
    name = adapter_name(method, suite)
    folder = zoo.root / "adapters" / name
    save_tensors(folder, updates)
    record = {
        "method": method.name,
        "options": trained_options(method),
        "trained_on": suite,
        "tasks": list(tasks),
        "base_sha256": zoo.manifest.base.sha256,
        "parameters": sum(update.size for update in updates.values()),
        "settings": {},
        "steps": 0,
        "rows": 0,
        "loss": 0.0,
    }
    (folder / CONFIG).write_text(json.dumps(record))
    enter(zoo, name)
    return Zoo.open(zoo.root)


def disturb(updates: Iterable[TrainedUpdate], seed: int = 0) -> None:
    """Move every parameter as training might."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for update in updates:
            for parameter in update.parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter += drawn.to(parameter.dtype) * parameter.shape[-1] ** -0.5
