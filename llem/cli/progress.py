"""Progress on stderr: bars on a terminal, a line a stage elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from llem.cli.message import say

Update = Callable[[str, float, float | None], None]

STAGES = {
    "load": "loading the model",
    "environment": "looking at the machine",
    "baseline": "measuring idle power",
    "warmup": "warming up",
    "run": "running prompts",
    "gather": "gathering what the ranks measured",
    "read": "reading results",
}
"""What a person is told of each stage of a run."""


@contextmanager
def show_progress() -> Iterator[Update]:
    """What to call with a stage, how much of it is done, and of how much."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bars:
        yield _bars(bars)


@contextmanager
def no_progress() -> Iterator[Update]:
    """The same, for whom nobody watches."""
    yield lambda *_: None


def _lines() -> Update:
    met: set[str] = set()

    def update(stage: str, _done: float, _total: float | None) -> None:
        if stage not in met:
            met.add(stage)
            say(STAGES.get(stage, stage))

    return update


def _bars(bars: Progress) -> Update:
    tasks: dict[str, Any] = {}

    def update(stage: str, done: float, total: float | None) -> None:
        if stage not in tasks:
            for earlier in tasks.values():
                bars.update(earlier, visible=False)
            words = STAGES.get(stage, stage)
            tasks[stage] = bars.add_task(words, total=total, done="")
        shown = "" if total is None else f"{done:.0f}/{total:.0f}"
        bars.update(tasks[stage], completed=done, total=total, done=shown)

    return update
