"""`lorafuse train`: experts, routers and multi-task adapters for a zoo, on any base and any data; one file each."""

from __future__ import annotations

import typer

from lorafuse_bench.cli.train import adapter, experts, router

app = typer.Typer(
    help="Train LoRA experts, routers and multi-task adapters into a zoo.", no_args_is_help=True
)
for _part in (experts, router, adapter):
    app.command(_part.__name__.rpartition(".")[2])(_part.command)
