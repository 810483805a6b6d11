"""The time series of all processes of a run, for as long as its result is being kept."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime

from llem.errors import StoreWriteError
from llem.store.durable import make_folders, remedy
from llem.store.merge import Piece, merge
from llem.store.parts import Part
from llem.store.staging import discard, staging_folder

MERGED_NAME = "merged.parquet"
"""What it is called in the staging area."""


@contextlib.contextmanager
def merged(
    parts: Iterable[Part],
    *,
    root: "str | os.PathLike[str]",
    start_time: datetime,
    max_rows: int,
    step: Callable[[], None] = lambda: None,
) -> Iterator[str | None]:
    """
    Path of the time series of all processes that left one, as long as the block runs.

    It lies in the staging area of *root*, where the result is going to be kept, so that what the
    processes left may be on a disk that is full, or cannot be written.

    Args:
        parts: What each process left.
        root: Where results are kept.
        start_time: What its times are counted from.
        max_rows: Most rows that it may have.
        step: As for `merge`.

    Gives None where no process left any samples.

    Raises:
        LlemError: A piece is not what was written, or there is no room for all.
    """
    pieces = [
        Piece(
            path=part.timeseries,
            shift_s=(part.conditions.start_time - start_time).total_seconds(),
            process_index=part.process.process_index,
        )
        for part in parts
        if part.timeseries is not None
    ]
    if not pieces:
        yield None
        return
    with _folder(os.path.abspath(root)) as folder:
        path = os.path.join(folder, MERGED_NAME)
        try:
            merge(pieces, path, max_rows=max_rows, step=step)
            yield path
        finally:
            discard(folder, [MERGED_NAME])


@contextlib.contextmanager
def _folder(root: str) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        try:
            make_folders(root)
            folder, _ = stack.enter_context(staging_folder(root))
        except OSError as fault:
            raise StoreWriteError(
                f"{root}: the time series were not merged there: {fault.strerror}; "
                f"{remedy(fault, root)}, or choose another root"
            ) from None
        yield folder
