"""What the verbs share: where results lie, how tables and JSON are printed, what errors say."""

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import orjson
from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from llem.domain.result import ExperimentResult
from llem.errors import LlemError
from llem.report.summary import Line
from llem.store import ResultStore

Root = Annotated[str, Parameter(name="--root", help="Directory that the results are kept in.")]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for a program.")]


def print_json(value: Any) -> None:
    """Print *value* as JSON."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n")


def print_lines(lines: Sequence[Line]) -> None:
    """Print labelled lines, the labels in a column."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row(line.label, Text(line.text))
    _print(grid)


def print_warnings(warnings: Sequence[str]) -> None:
    """Print measurement warnings in full."""
    if not warnings:
        return
    _print(Text("\nwarnings", style="bold"))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for warning in warnings:
        code, _, text = warning.partition(": ")
        grid.add_row("•", Text.assemble((code, "yellow"), f" {text}"))
    _print(grid)


def print_table(rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> None:
    """Print *rows*, the first of them the header; columns in *numeric* are flush right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    header, *body = rows
    for i, name in enumerate(header):
        table.add_column(name, justify="right" if i in numeric else "left", overflow="fold")
    for row in body:
        table.add_row(*map(Text, row))
    _print(table)


def _print(renderable: RenderableType) -> None:
    """Print on a terminal as wide as it is; in a file or a pipe nothing is folded."""
    console = Console(width=None if sys.stdout.isatty() else 10_000, highlight=False)
    with console.capture() as capture:
        console.print(renderable)
    lines = capture.get().splitlines()
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))


def readable(store: ResultStore) -> Iterator[tuple[str, ExperimentResult]]:
    """Every result that can be read, by key; the others are named on stderr."""
    for key in store:
        try:
            yield key, store.get(key)
        except LlemError as error:
            print(f"llem: {error}", file=sys.stderr)
