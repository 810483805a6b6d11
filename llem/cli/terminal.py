"""Lines and tables on a terminal: as wide as it is, folded where they are not."""

from collections.abc import Sequence
from textwrap import TextWrapper

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llem.report.summary import Line


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

    Nothing is folded or cut, so that a key can be copied: the terminal wraps what is too wide.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    header, *body = rows
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i in numeric else "left", no_wrap=True)
    for row in body:
        table.add_row(*map(Text, row))
    needed = sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True))
    Console(highlight=False, width=max(needed, Console().width)).print(table)
