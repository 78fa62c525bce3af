"""`lorafuse leaderboard`: from results to a table that can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lorafuse_bench.cli._boards import print_boards

app = typer.Typer(help="Build, show, verify and publish leaderboards.", no_args_is_help=True)


@app.command()
def build(
    results: Annotated[list[Path], typer.Argument(help="Folders of `lorafuse run`, or of lm_eval.")],
    out: Annotated[Path, typer.Option(help="The leaderboard file to write.")] = Path("leaderboard.json"),
    html: Annotated[Path | None, typer.Option(help="Folder for the page, index.html.")] = None,
    allow_limit: Annotated[
        bool, typer.Option("--allow-limit", help="Take results of limited runs; the board then says so.")
    ] = False,
    note: Annotated[str, typer.Option(help="A sentence that opens the captions.")] = "",
) -> None:
    """Build the leaderboard of all results, print it and say where it is.

    Results that do not compare are refused: other data, other documents than the oracle's, altered files,
    limited runs beside full ones. The same results give the same file, byte for byte.
    """
    from lorafuse_bench.leaderboards.board import read_leaderboard, write_leaderboard
    from lorafuse_bench.leaderboards.builder import build as build_leaderboard
    from lorafuse_bench.leaderboards.collect import collect
    from lorafuse_bench.leaderboards.evidence import evidence_of
    from lorafuse_bench.leaderboards.page import write_page

    leaderboard = build_leaderboard(results, allow_limit=allow_limit, note=note)
    write_leaderboard(out, leaderboard)
    page = None
    if html is not None:
        page = write_page(html, leaderboard, evidence_of(collect(results, allow_limit), leaderboard))
    print_boards(read_leaderboard(out))  # as it was written, to ten digits
    typer.echo(f"leaderboard: {out}")
    if page is not None:
        typer.echo(f"page: {page}")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(help="A leaderboard.json.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the file's content as JSON.")] = False,
) -> None:
    """Print a leaderboard."""
    from lorafuse_bench.leaderboards.board import read_leaderboard, to_json

    leaderboard = read_leaderboard(file)
    if as_json:
        typer.echo(to_json(leaderboard))
    else:
        print_boards(leaderboard)


@app.command()
def verify(
    paths: Annotated[list[Path], typer.Argument(help="Result files, leaderboard files, or folders of them.")],
) -> None:
    """Check results and published boards; every problem is named by file and field, exit code 2.

    A result must be whole, unaltered and comparable with the others; a published board must be what its
    results make.
    """
    from lorafuse_bench.leaderboards.verify import verify as check
    from lorafuse_bench.uncaught import EXIT_BAD_INPUT

    reports = [check(path) for path in paths]
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        typer.echo(problem, err=True)
    results, boards = sum(r.results for r in reports), sum(r.boards for r in reports)
    if problems:
        raise typer.Exit(EXIT_BAD_INPUT)
    typer.echo(f"{results} results and {boards} leaderboards: nothing wrong.")


@app.command()
def claims(
    boards: Annotated[list[Path], typer.Argument(help="Folders of results, such as published boards.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Markdown file to write the tables to.")] = None,
    html: Annotated[Path | None, typer.Option(help="Folder for the page, claims.html.")] = None,
    allow_limit: Annotated[bool, typer.Option("--allow-limit", help="Take results of limited runs.")] = False,
) -> None:
    """Hold the papers' printed findings against measured boards.

    Each one holds, does not hold, cannot be told, or is not measured, by the paired 95% interval of the
    difference; p values are corrected by Holm over one paper's findings.
    """
    import json

    from rich.table import Table
    from rich.text import Text

    from lorafuse_bench.cli._boards import console
    from lorafuse_bench.files import write_text
    from lorafuse_bench.leaderboards.builder import build as build_leaderboard
    from lorafuse_bench.leaderboards.claims import papers, report, verdicts
    from lorafuse_bench.leaderboards.collect import collect

    known = papers()
    found = verdicts.verdicts(collect(boards, allow_limit), build_leaderboard(boards, allow_limit), known)
    if markdown is not None:
        write_text(markdown, report.markdown(known, found))
    if html is not None:
        write_text(html / "claims.html", report.page(known, found))
    if as_json:
        typer.echo(json.dumps(report.as_json(found), indent=1, allow_nan=False))
        return
    for paper in known:
        table = Table(*report.HEADINGS, title=Text(paper.title, style="bold"), title_justify="left", box=None)
        for verdict in found:
            if verdict.paper == paper.name:
                table.add_row(*(Text(cell) for cell in report.cells(verdict)))
        console().print(table)
        console().print()


@app.command()
def pack(
    results: Annotated[list[Path], typer.Argument(help="Folders of `lorafuse run`, or of lm_eval.")],
    out: Annotated[Path, typer.Option(help="The new folder.")],
    caption: Annotated[str, typer.Option(help="What a reader must know; it opens the captions.")],
    allow_limit: Annotated[
        bool, typer.Option("--allow-limit", help="Take results of limited runs; the board then says so.")
    ] = False,
) -> None:
    """Pack results and their board into a folder that others can check: scores and hashes, no documents."""
    from lorafuse_bench.leaderboards.publish import pack as pack_folder

    print_boards(pack_folder(results, out, caption, allow_limit))
    typer.echo(f"packed: {out}. Check it with: lorafuse leaderboard verify {out}")


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="A folder with leaderboard.json and its results/.")],
    repo: Annotated[str, typer.Option(help="Data set on the hub, such as somebody/lora-fuse-boards.")],
    yes: Annotated[bool, typer.Option("--yes", help="Upload; without it only say what would be.")] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Leaderboard",
) -> None:
    """Upload a published board to the Hugging Face hub, after verifying it.

    The token is that of HF_TOKEN or `hf auth login`.
    """
    from lorafuse_bench.leaderboards import publish as publishing

    uploads = publishing.plan(folder)
    for upload in uploads:
        typer.echo(f"{upload.size:>10,} {upload.name}")
    if not yes:
        typer.echo(f"dry run: {len(uploads)} files for {repo}. Add --yes to upload them.")
        return
    typer.echo(f"published: {publishing.publish(folder, repo, message)}")


@app.command()
def schema(
    out: Annotated[Path, typer.Option(help="Folder for the JSON Schema files.")] = Path("."),
) -> None:
    """Write the JSON Schema of results, items and leaderboards."""
    from lorafuse_bench.leaderboards.schemas import write

    for path in write(out):
        typer.echo(str(path))
