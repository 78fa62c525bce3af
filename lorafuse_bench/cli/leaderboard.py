"""`lorafuse leaderboard`: from results to a table that can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorafuse_bench.cli import _checked
from lorafuse_bench.cli._answers import Answer, answers, counted, uploaded
from lorafuse_bench.cli._options import Device

if TYPE_CHECKING:
    from lorafuse_bench.leaderboards.boards.board import Leaderboard

app = typer.Typer(help="Build, show, verify and publish leaderboards.", no_args_is_help=True)


@app.command()
@answers
def build(
    results: Annotated[list[Path], typer.Argument(help="Folders of `lorafuse run`, or of lm_eval.")],
    out: Annotated[Path, typer.Option(callback=_checked.file, help="The leaderboard file to write.")] = Path(
        "leaderboard.json"
    ),
    html: Annotated[
        Path | None, typer.Option(callback=_checked.folder, help="Folder for the page, index.html.")
    ] = None,
    allow_limit: Annotated[
        bool, typer.Option("--allow-limit", help="Take results of limited runs; the board then says so.")
    ] = False,
    note: Annotated[str, typer.Option(help="A sentence that opens the captions.")] = "",
) -> Answer:
    """Build the leaderboard of all results, print it and say where it is.

    Results that do not compare are refused: other data, other documents than the oracle's, altered files,
    limited runs beside full ones. The same results give the same file, byte for byte.
    """
    from lorafuse_bench.leaderboards.boards.board import read_leaderboard, write_leaderboard
    from lorafuse_bench.leaderboards.boards.builder import of_groups
    from lorafuse_bench.leaderboards.boards.collect import collect
    from lorafuse_bench.leaderboards.boards.evidence import evidence_of
    from lorafuse_bench.leaderboards.pages.page import write_page

    groups = collect(results, allow_limit)
    leaderboard = of_groups(groups, note)
    write_leaderboard(out, leaderboard)
    page = None
    if html is not None:
        page = write_page(html, leaderboard, evidence_of(groups, leaderboard))
    files = [f"leaderboard: {out}", *([f"page: {page}"] if page else [])]
    return _boards(read_leaderboard(out), *files)  # as it was written, to ten digits


@app.command()
@answers
def show(
    file: Annotated[Path, typer.Argument(help="A leaderboard.json.")],
    raw: Annotated[
        bool, typer.Option("--raw", help="Tasks show their metric, not the oracle's share.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables in Markdown, without captions.")
    ] = False,
) -> Answer:
    """Print a leaderboard."""
    from lorafuse_bench.leaderboards.boards.board import read_leaderboard

    return _boards(read_leaderboard(file), raw=raw, markdown=markdown)


@app.command()
@answers
def verify(
    paths: Annotated[list[Path], typer.Argument(help="Result files, leaderboard files, or folders of them.")],
) -> Answer:
    """Check results and published boards; every problem is named by file and field, exit code 2.

    A result must be whole, unaltered and comparable with the others; a published board must be what its
    results make.
    """
    from lorafuse_bench.leaderboards.publishing.verify import verify as check
    from lorafuse_bench.uncaught import EXIT_BAD_INPUT

    reports = [check(path) for path in paths]
    problems = [problem for report in reports for problem in report.problems]
    for problem in problems:
        typer.echo(problem, err=True)
    results, boards = sum(r.results for r in reports), sum(r.boards for r in reports)
    if problems:
        raise typer.Exit(EXIT_BAD_INPUT)
    return Answer(
        {"results": results, "leaderboards": boards},
        [f"{counted(results, 'result')} and {counted(boards, 'leaderboard')}: nothing wrong."],
    )


@app.command()
@answers
def claims(
    boards: Annotated[list[Path], typer.Argument(help="Folders of results, such as published boards.")],
    markdown: Annotated[
        Path | None, typer.Option(callback=_checked.file, help="Markdown file to write the tables to.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(callback=_checked.folder, help="Folder for the page, claims.html.")
    ] = None,
    allow_limit: Annotated[bool, typer.Option("--allow-limit", help="Take results of limited runs.")] = False,
    analyses: Annotated[
        list[Path] | None, typer.Option(help="Folder of results of `lorafuse analyze`; may be given again.")
    ] = None,
) -> Answer:
    """Hold the papers' printed findings against measured boards, and against analyses.

    Each one holds, does not hold, cannot be told, or is not measured, by the paired 95% interval of the
    difference; p values are corrected by Holm over one paper's findings.
    """
    from lorafuse_bench.files import write_text
    from lorafuse_bench.leaderboards.boards.builder import of_groups
    from lorafuse_bench.leaderboards.boards.collect import collect
    from lorafuse_bench.leaderboards.claims import analysed, papers, report, verdicts
    from lorafuse_bench.tables import Table

    known = papers()
    groups = collect(boards, allow_limit)
    measured = analysed.Analysed.read(analyses or [])
    found = verdicts.verdicts(groups, of_groups(groups), known, measured)
    if markdown is not None:
        write_text(markdown, report.markdown(known, found))
    if html is not None:
        write_text(html / "claims.html", report.page(known, found))
    tables = [
        Table(
            report.HEADINGS,
            [report.cells(verdict) for verdict in found if verdict.paper == paper.name],
            title=paper.title,
            words=(0, 1),
        )
        for paper in known
    ]
    return Answer(report.as_json(found), tables)


@app.command()
@answers
def pack(
    results: Annotated[list[Path], typer.Argument(help="Folders of `lorafuse run`, or of lm_eval.")],
    out: Annotated[Path, typer.Option(callback=_checked.folder, help="The new folder.")],
    caption: Annotated[str, typer.Option(help="What a reader must know; it opens the captions.")],
    allow_limit: Annotated[
        bool, typer.Option("--allow-limit", help="Take results of limited runs; the board then says so.")
    ] = False,
) -> Answer:
    """Pack results and their board into a folder that others can check: scores and hashes, no documents."""
    from lorafuse_bench.leaderboards.publishing.publish import pack as pack_folder

    packed = pack_folder(results, out, caption, allow_limit)
    return _boards(packed, f"packed: {out}. Check it with: lorafuse leaderboard verify {out}")


@app.command()
@answers
def publish(
    folder: Annotated[Path, typer.Argument(help="A folder with leaderboard.json and its results/.")],
    repo: Annotated[
        str,
        typer.Option(
            callback=_checked.repository, help="Data set on the hub, such as somebody/lora-fuse-boards."
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Upload; without it only say what would be.")] = False,
    message: Annotated[str, typer.Option(help="Message of the commit.")] = "Leaderboard",
) -> Answer:
    """Upload a published board to the Hugging Face hub, after verifying it.

    The token is that of HF_TOKEN or `hf auth login`.
    """
    from lorafuse_bench.leaderboards.publishing import publish as publishing

    uploads = publishing.plan(folder)
    return uploaded(repo, uploads, publishing.publish(folder, repo, message) if yes else None)


@app.command()
@answers
def site(
    folder: Annotated[Path, typer.Argument(help="A folder of published boards.")],
    out: Annotated[Path, typer.Option(callback=_checked.folder, help="Folder for the site.")],
) -> Answer:
    """Write one site of all published boards: an index with a search, every board, a page for each method.

    It needs no server. Links depend on names, so they hold where boards come and go. A board that is not what
    its results make is refused.
    """
    from lorafuse_bench.leaderboards.pages.site import write_site

    files = write_site(folder, out)
    return Answer(
        {"index": str(files[0]), "pages": [str(file) for file in files]},
        [f"{counted(len(files), 'page')}: open {files[0]}"],
    )


@app.command()
@answers
def audit(
    results: Annotated[Path, typer.Argument(help="A folder of `lorafuse run`, or a published board's.")],
    zoo: Annotated[str, typer.Option(help="The zoo that the results say they are of.")] = "mini",
    data: Annotated[
        str | None, typer.Option(help="hub, mini, or a data directory; by default the zoo's.")
    ] = None,
    cells: Annotated[int, typer.Option(min=1, help="Cells to draw.")] = 3,
    items: Annotated[int, typer.Option(min=1, help="Items to draw of each task of a cell.")] = 8,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of an earlier draw; by default one that nobody can know beforehand."),
    ] = None,
    device: Device = "auto",
) -> Answer:
    """Evaluate random items of random cells anew and hold the results against them.

    Exit code 1 where some differ, or where a cell that was drawn cannot be made here.

    Hashes can be made to fit forged scores; what the model answers cannot.
    """
    from dataclasses import asdict

    from lorafuse_bench.progress import Display
    from lorafuse_bench.runner import Audit
    from lorafuse_bench.tables import Table

    with Display() as display:
        found = Audit(results, zoo, data, cells, items, seed, device).run(display)
    records = [
        {"cell": str(each.path), "task": each.task, "items": each.items, "differing": list(each.differing)}
        for each in found.tasks
    ]
    fields = [asdict(each) | {"path": str(each.path)} for each in found.fields]
    shown = [{**each, "differing": len(each["differing"])} for each in records]  # type: ignore[arg-type]
    wrong = sum(len(each.differing) for each in found.tasks)
    total = sum(each.items for each in found.tasks)
    unmade = {str(path): reason for path, reason in found.unmade.items()}
    lines = [f"{each.path}: {each.field}: {each.told}, but {each.again} here" for each in found.fields]
    lines += [f"{path}: not evaluated: {reason}" for path, reason in unmade.items()]
    return Answer(
        {"seed": found.seed, "tasks": records, "fields": fields, "unmade": unmade},
        [Table.of(shown, words=(0, 1)), *lines, f"{wrong} of {total} items differ (--seed {found.seed})"],
        int(wrong > 0 or bool(fields or unmade)),
    )


@app.command()
def schema(
    out: Annotated[
        Path, typer.Option(callback=_checked.folder, help="Folder for the JSON Schema files.")
    ] = Path("."),
) -> None:
    """Write the JSON Schema of results, items and leaderboards."""
    from lorafuse_bench.leaderboards.schemas import write

    for path in write(out):
        typer.echo(str(path))


def _boards(leaderboard: Leaderboard, *lines: str, raw: bool = False, markdown: bool = False) -> Answer:
    """Boards as tables with their captions, and as the content of leaderboard.json."""
    from lorafuse_bench.leaderboards.boards.board import content
    from lorafuse_bench.leaderboards.boards.tables import ROOM_FOR_COSTS, tables_of
    from lorafuse_bench.tables import console

    costs = not markdown and console().width >= ROOM_FOR_COSTS
    tables = tables_of(leaderboard, costs, raw)
    if not markdown:
        return Answer(content(leaderboard), [*tables, *lines])
    titled = [f"**{table.title}**\n\n{table.markdown()}\n" for table in tables]  # else they were one table
    return Answer(content(leaderboard), [*(titled if len(tables) > 1 else [tables[0].markdown()]), *lines])
