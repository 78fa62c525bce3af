"""Tables as people read them: on a terminal, in a notebook, in plain text."""

from __future__ import annotations

import html
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lorafuse_bench.leaderboards.boards.text import number, printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table as RichTable

WIDE = 160
"""Columns of a file or a pipe, which has no edge to fold at."""
LEAST = 11
"""Columns that words have before they fold."""


@dataclass(frozen=True)
class Table:
    """A table of text, with a title above and notes below it.

    The columns in `words` hold words, which fold where the terminal ends; the others hold numbers, at the right.
    A line is drawn before the rows in `breaks`; those in `dim` are greyed. All text is shown as it is: markup in it
    does nothing, and control characters become `?`.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: Sequence[str] = ()
    words: Collection[int] = (0,)
    breaks: Collection[int] = ()
    dim: Collection[int] = ()
    records: Sequence[Mapping[str, Any]] = ()
    """The values that the rows show, where the table was made of them."""

    @classmethod
    def of(
        cls, records: Sequence[Mapping[str, Any]], title: str = "", words: Collection[int] = (0,)
    ) -> Table:
        """One row for each record; all records have the same keys, which are the headings."""
        headings = list(records[0]) if records else []
        rows = [[cell(value) for value in record.values()] for record in records]
        return cls(headings, rows, title, words=words, records=records)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.text import Text

        if self.title:
            yield Text(printable(self.title), style="bold")
        yield self._rich()
        yield from (Text(printable(note), style="dim") for note in self.notes)

    def __str__(self) -> str:
        screen = console(io.StringIO())
        screen.print(self)
        return screen.file.getvalue().rstrip()  # type: ignore[attr-defined]

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [_html_row(row, "td", self.words, i in self.dim) for i, row in enumerate(self.rows)]
        title = f"<caption><b>{_escaped(self.title)}</b></caption>" if self.title else ""
        notes = "".join(f"<p>{_escaped(note)}</p>" for note in self.notes)
        head = _html_row(self.headings, "th", self.words, False)
        return f"<table>{title}<thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>{notes}"

    def markdown(self) -> str:
        """The table alone, in Markdown: what a page of documentation shows."""
        sides = ["---" if i in self.words else "---:" for i in range(len(self.headings))]
        lines = [self.headings, sides, *self.rows]
        return "\n".join(f"| {' | '.join(_in_markdown(text) for text in line)} |" for line in lines)

    def _rich(self) -> RichTable:
        from rich import box
        from rich.table import Table as RichTable
        from rich.text import Text

        table = RichTable(box=box.SIMPLE_HEAD, padding=0)
        for i, heading in enumerate(self.headings):
            if i in self.words:
                longest = max((len(row[i]) for row in self.rows), default=0)
                table.add_column(Text(heading), overflow="fold", min_width=min(longest, LEAST))
            else:
                table.add_column(Text(heading), justify="right", no_wrap=True)
        for i, row in enumerate(self.rows):
            if i in self.breaks:
                table.add_section()
            table.add_row(*(Text(printable(text), style="dim" if i in self.dim else "") for text in row))
        return table


def console(file: Any = None) -> Console:
    """The terminal, or another file, which has no width to wrap at."""
    from rich.console import Console

    found = Console(file=file, highlight=False)
    if not found.is_terminal:
        found.width = max(found.width, WIDE)
    return found


def cell(value: Any) -> str:
    """A value as tables show it: three decimals, thousands separators, names joined by slashes, a dash for None."""
    if value is None or value == ():
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, int):
        return f"{value:,}"
    return "/".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _html_row(texts: Sequence[str], tag: str, words: Collection[int], dim: bool) -> str:
    sides = ["left" if i in words else "right" for i in range(len(texts))]
    cells = (
        f'<{tag} style="text-align:{side}">{_escaped(text)}</{tag}>'
        for side, text in zip(sides, texts, strict=True)
    )
    style = ' style="opacity:.6"' if dim else ""
    return f"<tr{style}>{''.join(cells)}</tr>"


def _in_markdown(text: str) -> str:
    """Text that can neither end its cell nor be markup."""
    one_line = printable(text).replace("_\n", "_").replace("\n", " ")
    return html.escape(one_line, quote=False).replace("|", "\\|")


def _escaped(text: str) -> str:
    return html.escape(printable(text)).replace("\n", "<br>")
