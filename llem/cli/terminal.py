"""Lines and tables on a terminal: as wide as it is, folded where they are not."""

import re
from collections.abc import Sequence
from textwrap import TextWrapper
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llem.report.summary import Line

GAP = 2
"""Blanks between two columns of a table."""

LEAST_KEY = 16
"""Characters that the first column of a table has on the narrowest terminal."""


def print_lines(lines: Sequence[Line]) -> None:
    """
    Print labelled lines, the labels in a column.

    A word that is wider than its column is not cut, so that a path can be copied.
    """
    console = Console(highlight=False)
    indent = max((len(line.label) for line in lines), default=0) + 2
    folding = TextWrapper(
        max(20, console.width - indent), break_long_words=False, break_on_hyphens=False
    )
    for line in lines:
        text = Text(("\n" + " " * indent).join(folding.wrap(line.text)))
        console.print(Text(line.label.ljust(indent), style="bold") + text, soft_wrap=True)


def print_table(rows: Sequence[Sequence[str]], numeric: Sequence[int]) -> None:
    """
    Print *rows*, the first of them the header; columns in *numeric* are flush right.

    The first column is folded where the terminal is too narrow; the others are whole.
    """
    console = Console(highlight=False)
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    others = sum(width + GAP for width in widths[1:])
    first = min(widths[0], max(LEAST_KEY, console.width - others))
    table = Table(box=None, pad_edge=False, header_style="bold")
    header, *body = rows
    for i, name in enumerate(header):
        justify: Literal["left", "right"] = "right" if i in numeric else "left"
        table.add_column(name, justify=justify, min_width=widths[i] if i else first)
    for key, *cells in body:
        table.add_row(Text(_folded(key, first), overflow="fold"), *map(Text, cells))
    console.print(table, width=first + others, soft_wrap=True)


def _folded(key: str, width: int) -> str:
    """*key* in lines of *width* that end after an underscore, or else a hyphen, if they can."""
    lines = [""]
    for part in re.findall(r"[^_]*_|[^_]+", key):
        for piece in [part] if cell_len(part) <= width else re.findall(r"[^-]*-|[^-]+", part):
            if cell_len(lines[-1] + piece) > width:
                lines.append("")
            lines[-1] += piece
    return "\n".join(filter(None, lines))
