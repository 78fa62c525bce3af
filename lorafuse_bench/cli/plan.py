"""`lorafuse plan`: the memory that a base takes with experts or an adapter, before anything is loaded."""

from __future__ import annotations

from typing import Annotated

import typer

from lorafuse_bench.cli._answers import Answer, answers


@answers
def command(
    base: Annotated[str, typer.Option(help="A model folder, a hub id, or mini; only its shape is read.")],
    method: Annotated[str, typer.Option(help="A method with its options, such as svd:rank=16.")] = "base",
    experts: Annotated[int, typer.Option(min=0, max=1_000_000, help="Experts in the pool.")] = 0,
    rank: Annotated[int, typer.Option(min=1, help="Rank of each expert.")] = 8,
    targets: Annotated[
        str, typer.Option(help="Modules that experts adapt, separated by commas, or all-linear.")
    ] = "q_proj,k_proj,v_proj,o_proj",
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a pass.")] = 1,
    max_length: Annotated[int, typer.Option(min=1, help="Tokens of a row.")] = 2048,
    answer: Annotated[int, typer.Option(min=1, help="Tokens of a row that logits are made for.")] = 32,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16 or float16; auto is the checkpoint's own.")
    ] = "auto",
    train: Annotated[
        bool, typer.Option("--train", help="Train the adapter instead of evaluating it.")
    ] = False,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="With --train: as `train adapter` with this option."),
    ] = False,
    tasks: Annotated[int, typer.Option(min=1, help="Tasks that an adapter is trained on.")] = 1,
) -> Answer:
    """Memory by part, computed from shapes: no weight is read or fetched."""
    from pathlib import Path

    import torch

    from lorafuse_bench.device import AUTO, dtype_of, stored_dtype
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.fusion import registry
    from lorafuse_bench.loading import load_config, positions_of
    from lorafuse_bench.planning import Experts, Work, memory_of
    from lorafuse_bench.tables import Table
    from lorafuse_bench.training.settings import ALL_LINEAR
    from lorafuse_bench.zoo.hashes import BESIDE
    from lorafuse_bench.zoo.locate import local_model

    if gradient_checkpointing and not train:
        raise LorafuseError("--gradient-checkpointing is of training. Add --train, or leave it out.")
    folder = local_model(Path(base), base, patterns=BESIDE)
    maps = None if targets == ALL_LINEAR else "/".join(name.strip() for name in targets.split(","))
    longest = positions_of(load_config(folder)) or max_length
    tokens = min(max_length, longest)
    memory = memory_of(
        folder,
        registry.parse(method),
        Experts(experts, rank, maps),
        Work(batch_size, tokens, min(answer, tokens), train, recompute=gradient_checkpointing),
        stored_dtype(folder) if dtype == AUTO else dtype_of(dtype, torch.device("cpu"), torch.float32),
        tasks,
    ).record()
    rows = [{"part": part, "GB": size / 1e9} for part, size in memory.items()]
    notes = ["The blocks and the output layer take turns: of activations and logits the larger counts."]
    if tokens < max_length:
        notes.append(f"Rows of {tokens} tokens, the most that this base reads.")
    return Answer(memory, [Table.of(rows), *notes])
