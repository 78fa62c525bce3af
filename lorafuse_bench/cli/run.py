"""`lorafuse run`: every method on every suite, on one loaded base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lorafuse_bench.cli import _checked
from lorafuse_bench.cli._config import configurable
from lorafuse_bench.cli._options import Device, Dtype, IncludePath, TrustRemoteCode, names_in

if TYPE_CHECKING:
    from lorafuse_bench.fusion.base import FusionMethod

RunCode = Annotated[
    bool,
    typer.Option(
        "--confirm-run-unsafe-code",
        "--confirm_run_unsafe_code",
        help="Consent to run the code that models write (or_mtl), together with HF_ALLOW_CODE_EVAL=1.",
    ),
]


@configurable("planned", "as_json")
def command(
    methods: Annotated[
        str,
        typer.Option(help="'all', or names separated by commas, options as name:option=value+option=value."),
    ] = "all",
    control: Annotated[
        str | None,
        typer.Option(
            help="Run each method's control too: random (on experts of random factors), or budget (one LoRA trained on"
            " what its fit read)."
        ),
    ] = None,
    suites: Annotated[
        str,
        typer.Option(help="Separated by commas: suites, their YAML files, or tasks such as arc_easy/piqa."),
    ] = "mtl7",
    include_path: IncludePath = None,
    out: Annotated[
        Path,
        typer.Option(
            callback=_checked.results, help="Folder for the results; finished cells in it are kept."
        ),
    ] = Path("results"),
    zoo: Annotated[
        str, typer.Option(help="A zoo directory, an installed zoo such as 'mini', or OWNER/NAME of the hub.")
    ] = "mini",
    experts: Annotated[
        str | None,
        typer.Option(
            help="Experts separated by commas, or a bank such as @mbc; by default private ones of the suite's tasks."
        ),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="hub, mini, or a data directory; by default the zoo's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Documents per task, for a quick look.")] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=16,
            help="Tokens of prompt and answer at most, by default the zoo's; longer prompts lose their middle.",
        ),
    ] = None,
    num_fewshot: Annotated[
        int | None,
        typer.Option(
            "--num-fewshot",
            "--num_fewshot",
            min=0,
            help="Training rows shown in every prompt; by default none, or as lm-eval's own task says.",
        ),
    ] = None,
    system_instruction: Annotated[
        str | None,
        typer.Option("--system-instruction", "--system_instruction", help="Said before every prompt."),
    ] = None,
    chat_template: Annotated[
        bool,
        typer.Option(
            "--apply-chat-template",
            "--apply_chat_template",
            help="Send prompts through the tokenizer's chat template, examples as turns.",
        ),
    ] = False,
    gen_kwargs: Annotated[
        str | None,
        typer.Option(
            "--gen-kwargs",
            "--gen_kwargs",
            help="Replace the tasks' settings of generation, such as max_gen_toks=64,do_sample=true,temperature=0.7;"
            " or as JSON.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per batch.")] = 32,
    dtype: Dtype = "auto",
    device: Device = "auto",
    workers: Annotated[
        int, typer.Option(min=1, help="Workers that share the cells, each with a base of its own.")
    ] = 1,
    engine: Annotated[
        str,
        typer.Option(
            help="Where the workers are: local, in processes of this machine, or ray, on a Ray cluster."
        ),
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            "--ray_address",
            help="With --engine ray, a cluster that runs, such as auto or HOST:6379; by default one is started here.",
        ),
    ] = None,
    shard: Annotated[
        str,
        typer.Option(
            help="I/N: every N-th cell from the I-th on, such as $SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT of"
            " an array that begins at 1."
        ),
    ] = "1/1",
    run_code: RunCode = False,
    trust_remote_code: TrustRemoteCode = False,
    planned: Annotated[
        bool,
        typer.Option(
            "--plan",
            is_eager=True,
            help="Show the cells, which are done, and what each takes as measured; run nothing.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --plan, print JSON.")] = False,
) -> None:
    """Evaluate fusion methods on suites and keep every finished cell.

    Running the same command again continues where it stopped, within a cell too: a kill costs two seconds and a batch
    at most.
    """
    from lorafuse_bench.cli import _next, _planned
    from lorafuse_bench.cli._answers import counted, tell
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.remote_code import trust
    from lorafuse_bench.tasks import catalogue, consent
    from lorafuse_bench.tasks.suites import suite as suite_of
    from lorafuse_bench.zoo.manifest import Zoo

    if as_json and not planned:
        raise LorafuseError("--json shows a plan as data. Add --plan, or drop --json.")
    Zoo.open(zoo).check_whole()
    trust(trust_remote_code)
    catalogue.include(include_path or ())
    asked = [suite_of(name.strip()) for name in suites.split(",")]
    consent.ask(asked, run_code)  # before the seconds that importing what follows takes

    from lorafuse_bench import runner
    from lorafuse_bench.progress import Display

    plan = runner.Plan(
        methods=_methods(methods, control),
        suites=[suite.name for suite in asked],
        out=out,
        zoo=zoo,
        experts=names_in(experts),
        data=data,
        limit=limit,
        max_length=max_length,
        num_fewshot=num_fewshot,
        system_instruction=system_instruction,
        chat_template=chat_template,
        generation=_generation(gen_kwargs),
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        run_code=run_code,
        shard=runner.shard_of(shard),
    )
    if planned:
        tell(_planned.answer(plan, workers), as_json)
        return
    with Display() as display:
        paths = runner.run(plan, display, workers, engine, ray_address)
    part = "" if plan.shard == (1, 1) else f" of shard {shard}"
    typer.echo(f"{counted(len(paths), 'cell')}{part} in {out}")
    if plan.shard == (1, 1):  # of a part it is not known what the others have done
        typer.echo(_next.board(out, paths, limited=limit is not None))


def _methods(names: str, control: str | None) -> list[FusionMethod] | None:
    """The methods named, with their controls where these are asked for; None for all."""
    from lorafuse_bench.errors import LorafuseError
    from lorafuse_bench.fusion import registry
    from lorafuse_bench.fusion.controls import with_controls

    if names == "all":
        if control is not None:
            raise LorafuseError("--control is of methods that are named. Name them with --methods.")
        return None
    found = registry.parse_all(names)
    return found if control is None else with_controls(found, control)


def _generation(given: str | None) -> dict[str, Any]:
    """Settings of generation as lm_eval's command takes them: `key=value,key=value`, or a JSON object."""
    from lm_eval.utils import simple_parse_args_string

    from lorafuse_bench.errors import LorafuseError

    text = (given or "").strip()
    try:
        found = json.loads(text) if text.startswith("{") else simple_parse_args_string(text)
    except ValueError as error:
        raise LorafuseError(f"--gen-kwargs: not readable as JSON: {error}. Correct it.") from error
    if "" in found.values():  # a word without `=`
        name = min(key for key, value in found.items() if value == "")
        raise LorafuseError(f"--gen-kwargs: '{name}' has no value. Write {name}=VALUE.")
    return dict(found)
