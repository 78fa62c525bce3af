"""Merges and experts as files that other programs load: PEFT adapters, or whole models where a merge is full-rank."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorafuse_bench import artefacts
from lorafuse_bench.base_model import check_fit
from lorafuse_bench.device import AUTO, DTYPES, stored_dtype
from lorafuse_bench.errors import LorafuseError, unknown
from lorafuse_bench.experts import ExpertPool
from lorafuse_bench.files import new_folder, read_json, write_json, write_text
from lorafuse_bench.fused import warn_of_shrinking
from lorafuse_bench.fusion import registry
from lorafuse_bench.fusion.base import FusionMethod, Merge, Merged
from lorafuse_bench.heads import fit, set_base
from lorafuse_bench.hub import Upload, files_of
from lorafuse_bench.leaderboards.boards.board import Leaderboard
from lorafuse_bench.loading import load_model, load_tokenizer
from lorafuse_bench.model_card import Made, model_card
from lorafuse_bench.peft_tensors import WEIGHTS
from lorafuse_bench.zoo.hashes import ADAPTER_CONFIG
from lorafuse_bench.zoo.locate import is_hub_id
from lorafuse_bench.zoo.manifest import Zoo

PROVENANCE = "lorafuse_export.json"
CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """What was written: a PEFT adapter of `base` with so many parameters, or a whole model."""

    path: Path
    kind: Literal["adapter", "model"]
    base: str
    parameters: int


def export_merge(
    method: FusionMethod,
    zoo: Zoo,
    out: Path,
    names: Sequence[str] | None = None,
    whole: bool = False,
    dtype: str = "float32",
    scores: Leaderboard | None = None,
) -> Exported:
    """Write the merge of the zoo's experts (or those named) to the new folder `out`, with a card.

    Low-rank merges become a PEFT adapter, exactly, with scaling 1. Full-rank ones, and those that adapt an
    output layer tied to the embeddings, are added to the base's weights in fp32 and written as a whole
    model, never recompressed; with `whole` every merge is. All is computed in fp32 and written in `dtype`, `auto`
    being the base's own; the card shows `scores`. Raises LorafuseError for a method that is no merge, scores
    of something else, and when `out` is not empty.
    """
    if not isinstance(method, Merge):
        merges = [name for name, cls in registry.methods().items() if issubclass(cls, Merge)]
        raise LorafuseError(
            f"method '{method.name}' does not collapse to one update per module and cannot be exported."
            f" These can: {', '.join(merges)}; --all exports every expert."
        )
    kept = _dtype(dtype, zoo)
    with new_folder(out) as folder:
        warn_of_shrinking(method, zoo)
        pool = ExpertPool.from_zoo(zoo, names)
        skeleton = _skeleton(zoo, pool)
        method.check(pool)
        with torch.no_grad():
            merged = method.collapse(method.given(pool), lambda one: artefacts.of(zoo, one, pool))
        whole = whole or bool(merged.dense) or _adapts_tied_weights(skeleton, merged.factors)
        if whole:
            parameters = 0
            _write_model(folder, merged, zoo, kept)
        else:
            parameters = _write_adapter(folder, merged.factors, zoo, skeleton, kept)
        written = Exported(out, "model" if whole else "adapter", base_name(zoo), parameters)
        made = {"method": method.label(), "options": method.options(), "version": method.version}
        write_json(folder / PROVENANCE, made | _provenance(zoo, pool))
        _write_card(folder, written, zoo, pool, kept, method, scores)
    return written


def export_experts(
    zoo: Zoo, out: Path, names: Sequence[str] | None = None, dtype: str = "float32"
) -> list[Exported]:
    """Write each of the zoo's experts (or those named) as a PEFT adapter of scaling 1 to `out/<name>`."""
    return export_pool(ExpertPool.from_zoo(zoo, names), zoo, out, dtype)


def export_experts_for(
    head_sizes: Sequence[int],
    zoo: Zoo,
    out: Path,
    names: Sequence[str] | None = None,
    dtype: str = "float32",
) -> list[Exported]:
    """`export_experts`, and `out/base` where the base's heads are of none of `head_sizes`: then all are wider."""
    with new_folder(out) as folder:
        own = export_experts(zoo, folder / "own", names, dtype)
        base, adapters = fit(zoo.base_folder(), [one.path for one in own], head_sizes, folder)
        if base == zoo.base_folder():
            for path in adapters:
                path.rename(folder / path.name)
            base = Path(base_name(zoo))
        else:
            base = out / base.name
            for path in adapters:
                set_base(path, base)
        shutil.rmtree(folder / "own")
    return [Exported(out / one.path.name, "adapter", str(base), one.parameters) for one in own]


def export_pool(pool: ExpertPool, zoo: Zoo, out: Path, dtype: str = "float32") -> list[Exported]:
    """Write each expert of a pool on the zoo's base as a PEFT adapter of scaling 1 to `out/<name>`, in order."""
    written: dict[str, Exported] = {}
    kept = _dtype(dtype, zoo)
    with new_folder(out) as folder:
        skeleton = _skeleton(zoo, pool)
        for expert in pool.experts:
            if _adapts_tied_weights(skeleton, expert.factors):
                raise LorafuseError(
                    f"adapter '{expert.name}' adapts the output layer or the embeddings, which share their weights:"
                    " other programs cannot load that. Leave it out, or export it as a merge of one expert."
                )
            factors = {module: expert.scaled(module) for module in expert.factors}
            place, alone = folder / expert.name, ExpertPool([expert])
            size = _write_adapter(place, factors, zoo, skeleton, kept)
            written[expert.name] = Exported(out / expert.name, "adapter", base_name(zoo), size)
            write_json(place / PROVENANCE, {"expert": expert.name} | _provenance(zoo, alone))
            _write_card(place, written[expert.name], zoo, alone, kept)
    return list(written.values())


def uploads(folder: Path) -> list[Upload]:
    """The files of an export as they would lie on the hub.

    LorafuseError where `folder` is no export, and for adapters whose base is on this machine alone.
    """
    if not any(folder.rglob(PROVENANCE)):
        raise LorafuseError(f"{folder} is not an export. Say what to export: --method NAME, or --all.")
    for config in folder.rglob(ADAPTER_CONFIG):
        base = read_json(config, "Export it again.").get("base_model_name_or_path")
        if not is_hub_id(str(base)) or Path(str(base)).is_dir():
            raise LorafuseError(
                f"the base of {config.parent} is {base}, where others cannot load it. Export a model with --whole,"
                " or put the base on the hub and say so: lorafuse zoo rebase ZOO --base HUB_ID"
            )
    return files_of(folder)


def base_name(zoo: Zoo) -> str:
    """How other programs find the zoo's base: an absolute path, or the hub id."""
    return zoo.hub_id or str(zoo.find_base().resolve())


def _dtype(name: str, zoo: Zoo) -> torch.dtype:
    """The type to write in."""
    if name == AUTO:
        return stored_dtype(zoo.base_folder())
    if name not in DTYPES:
        raise unknown("dtype", name, (AUTO, *DTYPES))
    return DTYPES[name]


def _write_card(
    folder: Path,
    written: Exported,
    zoo: Zoo,
    pool: ExpertPool,
    dtype: torch.dtype,
    method: FusionMethod | None = None,
    scores: Leaderboard | None = None,
) -> None:
    made = Made(
        title=written.path.name,
        kind=written.kind,
        zoo_name=zoo.name,
        zoo_sha256=zoo.sha256(),
        base_name=zoo.base_name,
        base=zoo.manifest.base.hub or zoo.hub_id,
        experts={expert.name: expert.sha256 for expert in pool.experts},
        dtype=str(dtype).removeprefix("torch."),
        method=method.label() if method else None,
        options=method.options() if method else None,
    )
    write_text(folder / CARD, model_card(made, scores))


def _skeleton(zoo: Zoo, pool: ExpertPool) -> PreTrainedModel:
    """The base's structure without its weights, which the experts fit."""
    pool.required_by("an export")
    return check_fit(zoo.base_folder(), pool)


def _write_adapter(
    folder: Path,
    factors: Mapping[str, tuple[Tensor, Tensor]],
    zoo: Zoo,
    skeleton: PreTrainedModel,
    dtype: torch.dtype,
) -> int:
    """A PEFT adapter with `ΔW = B @ A`: alpha = rank everywhere, so that every scaling is 1.

    Returns its number of parameters. Each module has its own rank: padding is left out.
    """
    compact = {module: _without_padding(a, b) for module, (a, b) in factors.items()}
    ranks = {module: a.shape[0] for module, (a, _) in compact.items()}
    rank = max(ranks.values())
    others = {module: r for module, r in ranks.items() if r != rank}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name(zoo),
        "revision": zoo.manifest.base.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "target_modules": sorted(ranks),
        # Only a label: PEFT stores A and B alike for both kinds of layer.
        "fan_in_fan_out": any(_is_transposed(skeleton.get_submodule(module)) for module in ranks),
    }
    tensors = {}
    for module, (a, b) in compact.items():
        embedding = isinstance(skeleton.get_submodule(module), nn.Embedding)
        for factor, tensor in (("A", a), ("B", b)):
            key = f"lora_embedding_{factor}" if embedding else f"lora_{factor}.weight"
            tensors[f"base_model.model.{module}.{key}"] = tensor.to(dtype).contiguous()
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    write_json(folder / ADAPTER_CONFIG, config)
    return sum(tensor.numel() for tensor in tensors.values())


def _without_padding(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The factors less the components that add nothing; at least one stays."""
    kept = (a.any(1) & b.any(0)).nonzero()[:, 0]
    if len(kept) == 0:
        return torch.zeros_like(a[:1]), torch.zeros_like(b[:, :1])
    return a[kept], b[:, kept]


def _write_model(folder: Path, merged: Merged, zoo: Zoo, dtype: torch.dtype) -> None:
    """The base with every update added in fp32, with its tokenizer."""
    source = zoo.base_folder()
    model = load_model(source, torch.float32)
    quantised = getattr(model, "is_quantized", False)
    if quantised:
        model.dequantize()
    if _adapts_tied_weights(model, (*merged.dense, *merged.factors)):
        head: Any = model.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False
    with torch.no_grad():
        for module, delta in merged.dense.items():
            _add(model.get_submodule(module), delta)
        for module, (a, b) in merged.factors.items():
            _add(model.get_submodule(module), b @ a)
    # transformers cannot write what it dequantised in the format it was quantised in.
    model.to(dtype)  # type: ignore[arg-type]  # its annotation is of another method
    model.save_pretrained(folder, save_original_format=not quantised)
    load_tokenizer(source).save_pretrained(folder)


def _adapts_tied_weights(model: PreTrainedModel, modules: Iterable[str]) -> bool:
    """Whether the output layer or the embeddings are among `modules`, and share their weights.

    An adapter on one says nothing of the other: added to shared weights it would change both, and
    lm-eval ties the weights again after loading an adapter, which fails.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is embeddings.weight
    return tied and any(model.get_submodule(module) in (head, embeddings) for module in modules)


def _add(layer: nn.Module, delta: Tensor) -> None:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    weight += delta.T if _is_transposed(layer) or isinstance(layer, nn.Embedding) else delta


def _is_transposed(layer: nn.Module) -> bool:
    """Whether a linear map keeps its weights as `(in, out)`: GPT-2's Conv1D, PEFT's fan_in_fan_out."""
    return type(layer).__name__ == "Conv1D"


def _provenance(zoo: Zoo, pool: ExpertPool) -> dict[str, Any]:
    return {
        "zoo": {"name": zoo.name, "seed": zoo.manifest.seed, "sha256": zoo.sha256()},
        "base_sha256": zoo.manifest.base.sha256,
        "experts": {expert.name: expert.sha256 for expert in pool.experts},
    }
