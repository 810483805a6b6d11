"""What the verbs share: where results lie, how lines, tables and JSON are printed."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import orjson
from cyclopts import Parameter

from llem.cli.message import say
from llem.domain.result import ExperimentResult
from llem.errors import ConfigError, LlemError, ResultNotFoundError
from llem.report.figures import printable
from llem.report.summary import Line
from llem.store import ResultStore
from llem.store.layout import STATE_NAME
from llem.store.reading import MAX_JSON_BYTES, MAX_MEASURED_BYTES

DEFAULT_ROOT = "results"

Root = Annotated[str, Parameter(name="--root", help="Directory that the results are kept in.")]
MaxJson = Annotated[
    int,
    Parameter(name="--max-json-mib", help="Largest result.json that is read. Unit: MiB."),
]
DEFAULT_MAX_JSON = MAX_JSON_BYTES // 2**20
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON, for a program.")]


PATIENCE_S = 1.0
"""How long nobody wonders what goes on. Unit: s."""


def write_out(text: str) -> None:
    """Write data to stdout, in UTF-8 whatever the locale is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.flush()
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text)


def print_json(value: Any) -> None:
    """Print *value* as JSON."""
    write_out(json_text(value))


def json_text(value: Any) -> str:
    """*value* as JSON, indented, with a newline at its end."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode() + "\n"


def print_lines(lines: Sequence[Line]) -> None:
    """Print labelled lines, the labels in a column."""
    lines = [Line(line.label, printable(line.text)) for line in lines]
    if sys.stdout.isatty():
        from llem.cli import terminal

        terminal.print_lines(lines)
        return
    width = max((len(line.label) for line in lines), default=0)
    for line in lines:
        print(f"{line.label:{width}}  {line.text}")


def print_section(heading: str, lines: Sequence[Line]) -> None:
    """Print labelled lines under *heading*, below a blank line."""
    print(f"\n{printable(heading)}")
    print_lines(lines)


def print_warnings(warnings: Sequence[str]) -> None:
    """Print measurement warnings in full, below a blank line."""
    if not warnings:
        return
    print_section("warnings", [Line("-", warning) for warning in warnings])


def print_table(rows: Sequence[Sequence[str]], *, numeric: Sequence[int] = ()) -> None:
    """Print *rows*, the first of them the header; columns in *numeric* are flush right."""
    rows = [[*map(printable, row)] for row in rows]
    if sys.stdout.isatty():
        from llem.cli import terminal

        terminal.print_table(rows, numeric)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def reading_store(root: str, max_json_mib: int) -> ResultStore:
    """
    The store *root*, to be read.

    Raises:
        ConfigError: *max_json_mib* is less than 1.
    """
    if max_json_mib < 1:
        raise ConfigError(f"--max-json-mib must be 1 or more, got {max_json_mib}")
    return ResultStore(root, max_json_bytes=max_json_mib * 2**20)


def writing_store(root: str | os.PathLike[str]) -> ResultStore:
    """The store *root*, to keep what was measured, however large that is."""
    return ResultStore(root, max_json_bytes=MAX_MEASURED_BYTES)


def readable(root: str, max_json_mib: int) -> tuple[list[tuple[str, ExperimentResult]], int]:
    """
    Every result under *root* that can be read, by key; 1 where one cannot, else 0.

    One that cannot is named on stderr, and so is a root without results.

    Raises:
        ResultNotFoundError: There is no such root. That of the default may come to be.
    """
    store = reading_store(root, max_json_mib)
    found, status = [], 0
    keys = [*store]
    if not keys:
        if root != DEFAULT_ROOT and not os.path.exists(store.root):
            raise ResultNotFoundError(
                f"{root}: there is no such directory: name one that results are kept in"
            )
        left = "; `llem verify` says what ranks left" if (store.root / STATE_NAME).exists() else ""
        say(f"no results in {root}: `llem run` makes one{left}")
    with reading_progress() as progress:
        for done, key in enumerate(keys):
            progress(done, len(keys))
            try:
                found.append((key, store.get(key)))
            except LlemError as error:
                say(str(error))
                status = 1
    return found, status


@contextmanager
def reading_progress() -> Iterator[Callable[[int, int], None]]:
    """What to call with how many results are read, of how many; it shows once a second is over."""
    began = time.monotonic()
    with ExitStack() as stack:
        update: Callable[[str, float, float | None], None] | None = None

        def progress(done: int, total: int) -> None:
            nonlocal update
            if update is None and time.monotonic() - began > PATIENCE_S:
                from llem.cli.progress import show_progress

                update = stack.enter_context(show_progress())
            if update is not None:
                update("read", done, total)

        yield progress
