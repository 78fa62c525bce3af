"""`lorafuse samples`: what was asked, expected and answered, every method side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lorafuse_bench.cli._answers import Answer, answers
from lorafuse_bench.cli._options import names_in

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from lorafuse_bench.leaderboards.results.samples import Item


@answers
def command(
    results: Annotated[Path, typer.Argument(help="Results of one suite on one zoo: a folder of cells.")],
    task: Annotated[str, typer.Option(help="Task key, such as squad.")],
    methods: Annotated[str | None, typer.Option(help="Labels, separated by commas; default: all.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Documents to print.")] = 10,
) -> Answer:
    """Print prompts, targets and every method's outputs, the documents they disagree on first."""
    from dataclasses import asdict

    from lorafuse_bench.leaderboards.results.samples import samples_in, side_by_side

    cells = samples_in(results, task, names_in(methods))
    items = side_by_side(cells, task)
    shown = items[:limit]
    differ = sum(item.disagreement > (0.0, 1) for item in items)
    told = f"{len(shown)} of {len(items)} documents of {task}; the {len(cells)} methods differ on {differ}."
    data = {
        "task": task,
        "documents": len(items),
        "differ": differ,
        "items": [asdict(item) for item in shown],
    }
    return Answer(data, [*map(_panel, shown), told])


def _panel(item: Item) -> RenderableType:
    """One document. Text, not markup, and without control characters: all of it comes from files."""
    from rich import box
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from lorafuse_bench.leaderboards.boards import text

    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1), expand=True)
    table.add_column(max_width=32, overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    table.add_row(Text("prompt", "dim"), "", Text(text.printable(item.prompt)))
    table.add_row(Text("target", "dim"), "", Text(text.printable(item.target), "bold"))
    table.add_section()
    for answer in item.answers:
        labels = Text(text.printable(", ".join(answer.labels)), "cyan")
        table.add_row(labels, Text(text.number(answer.score)), _output(answer.output))
    return Panel(table, title=Text(f"{item.task} {item.doc_id}"), title_align="left", box=box.ROUNDED)


def _output(output: str | None) -> Text:
    from rich.text import Text

    from lorafuse_bench.leaderboards.boards.text import printable

    if not output:
        return Text("(likelihood only)" if output is None else "(empty)", "dim")
    return Text(printable(output))
