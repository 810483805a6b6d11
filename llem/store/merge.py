"""
One time series of the pieces that the processes of a run left.

Rows are merged by time, then by process, and keep their order within a piece. No two rows are alike
in that, so that it does not matter how much is read at once. Of each piece a few blocks are in
memory. What all pieces have up to the least of the times at which these end is complete: it is
sorted and written together. Of very many pieces some are merged at a time, into files that are
merged in turn.
"""

import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Literal

import attrs

from llem.domain.timeseries import MAX_REQUESTS, REQUESTS_KEY, STRIDE_KEY, TIMING_KEY
from llem.errors import LlemError, SidecarIntegrityError, SidecarSchemaError, StoreWriteError
from llem.store.blocks import BlockWriter, opened_series
from llem.store.columns import RUN_KEY, check_rows, check_run, schema_of
from llem.store.sidecar import MAX_ROWS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    Floats = npt.NDArray[np.float64]

MAX_OPEN = 32
"""
Files that are merged at a time. Each takes about 1 MiB, for what is read ahead of its columns and
the pages that they are decoded from, and a descriptor.
"""

MERGED_ROWS = 2**16
"""Rows that are read together of all files that are merged."""

_UNREADABLE = (LookupError, ValueError, TypeError, AttributeError, RecursionError)
"""What parsing ends in where a file holds anything but what was written."""


@attrs.frozen(kw_only=True)
class Piece:
    """
    What one process left of a run's time series.

    Attributes:
        path: A Parquet file in the format of a sidecar. No two pieces share a ``gpu_index``.
        shift_s: What its times are later by on the record's time axis. Unit: s.
        process_index: The process.
    """

    path: str = attrs.field(converter=os.fspath)
    shift_s: float = 0.0
    process_index: int


def merge(
    pieces: Sequence[Piece],
    into: "str | os.PathLike[str]",
    *,
    max_rows: int = MAX_ROWS,
    max_open: int = MAX_OPEN,
    block_rows: int = MERGED_ROWS,
    step: Callable[[], None] = lambda: None,
) -> int:
    """
    Write the time series of a run into the new file *into*, in the format of a sidecar.

    What it tells of its devices and requests is what all pieces tell together, by the record's
    time. Where the pieces have more than *max_rows* rows every k-th tick of each is kept, from its
    first one on, so that they fit, and the file says so: see `STRIDE_KEY`.

    Args:
        pieces: What the processes left, in any order.
        into: The file. Nothing may be there.
        max_rows: Most rows that are written.
        max_open: Files that are merged at a time, two or more.
        block_rows: Rows that are read together of all of them.
        step: Called now and then, each time that it got on.

    Returns:
        How many rows were written.

    Raises:
        ResultNotFoundError: The file of a piece is not there.
        ResultAccessError: It is no regular file, or may not be read.
        SidecarIntegrityError: It is no Parquet, is of another run, or has a ``gpu_index`` or a
            process of another piece; or so many rows are of one time that none can be left out.
        SidecarSchemaError: Its columns are not the four of a time series, or hold what no meter
            gives.
        StoreWriteError: *into* is there, or could not be written. What was written of it is gone.
    """
    ordered = sorted(pieces, key=lambda piece: piece.process_index)
    told = _Told()
    for piece in ordered:
        told.add(piece)
        step()
    stride = _stride(ordered, told.rows, max_rows, step)
    owners: dict[int, str] = {}
    sources = [_Source(piece.path, piece.shift_s, stride, owners) for piece in ordered]
    path = os.fspath(into)
    with _new_file(path) as file, contextlib.ExitStack() as stack:
        if len(sources) > max_open:
            folder = tempfile.TemporaryDirectory(dir=os.path.dirname(path) or os.curdir)
            sources = _fewer(sources, stack.enter_context(folder), max_open, block_rows, step)
        return _write(sources, file, told.schema(stride), block_rows, step)


class _Told:
    """
    What all pieces tell of themselves.

    Attributes:
        rows: How many rows they have.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._run: str | None = None
        self._timing: dict[str, Any] = {}
        self._requests: dict[int, list[Any]] = {}
        self._processes: list[int] = []

    def add(self, piece: Piece) -> None:
        """Take in what *piece* tells."""
        if not math.isfinite(piece.shift_s):
            raise SidecarSchemaError(f"{piece.path}: is shifted by {piece.shift_s} s")
        if piece.process_index in self._processes:
            raise SidecarIntegrityError(
                f"{piece.path}: is of process {piece.process_index}, of which there is another"
            )
        self._processes.append(piece.process_index)
        with opened_series(piece.path, sys.maxsize) as file:
            self.rows += file.rows
            told = file.told
        if self._run is None and RUN_KEY in told:
            self._run = told[RUN_KEY].decode("utf-8", "backslashreplace")
        if self._run is not None:
            check_run(told, piece.path, self._run)
        self._add_timing(piece.path, told)
        self._add_requests(piece, told)

    def _add_timing(self, path: str, told: dict[bytes, bytes]) -> None:
        try:
            timing = {**json.loads(told[TIMING_KEY])}
        except _UNREADABLE:
            return
        if both := timing.keys() & self._timing.keys():
            raise SidecarIntegrityError(f"{path}: has gpu_index {min(both)}, as another piece has")
        self._timing |= timing

    def _add_requests(self, piece: Piece, told: dict[bytes, bytes]) -> None:
        shift = round(piece.shift_s * 1e6)
        try:
            spans = [
                [start + shift, None if first is None else first + shift, end + shift]
                for start, first, end in json.loads(told[REQUESTS_KEY])
            ]
        except _UNREADABLE:
            return
        # Of more than are told none is, and so no more than one too many needs to be known.
        left = MAX_REQUESTS + 1 - sum(map(len, self._requests.values()))
        self._requests[piece.process_index] = spans[:left]

    def schema(self, stride: int) -> "pa.Schema":
        """The columns, and what is told of all pieces where every *stride*-th tick is kept."""
        told: dict[bytes, str] = {}
        if self._run is not None:
            told[RUN_KEY] = self._run
        if self._timing:
            timing = {index: _thinned(values, stride) for index, values in self._timing.items()}
            told[TIMING_KEY] = json.dumps(timing)
        if 0 < sum(map(len, self._requests.values())) <= MAX_REQUESTS:
            (one, *others), alone = self._requests.values(), len(self._processes) == 1
            requests = one if alone and not others else self._requests
            told[REQUESTS_KEY] = json.dumps(requests, separators=(",", ":"))
        if stride > 1:
            told[STRIDE_KEY] = str(stride)
        return schema_of(told)


def _thinned(timing: Any, stride: int) -> Any:
    """*timing* where every *stride*-th tick is kept."""
    if stride == 1 or not isinstance(timing, dict):
        return timing
    period_s: Any = timing.get("period_s")
    is_known = isinstance(period_s, int | float)
    return {**timing, "period_s": period_s * stride} if is_known else timing


def _stride(pieces: Sequence[Piece], rows: int, max_rows: int, step: Callable[[], None]) -> int:
    """K where every k-th tick of *pieces*, which have *rows* rows, makes *max_rows* at most."""
    stride, kept, ticks = 1, rows, sys.maxsize
    while kept > max_rows:
        if stride >= ticks:
            check_rows(kept, f"the first ticks of {len(pieces)} pieces", max_rows)
        stride = -(-stride * kept // max(max_rows, 1))
        kept = ticks = 0
        for piece in pieces:
            with opened_series(piece.path, sys.maxsize) as file:
                counter = _Ticks()
                for block in file.blocks():
                    step()
                    kept += len(counter.kept(_times(block), stride))
                ticks = max(ticks, counter.count)
    return stride


class _Ticks:
    """
    Tells the ticks of a piece, whose blocks come one after the other.

    Attributes:
        count: How many were met.
    """

    def __init__(self) -> None:
        self.count = 0
        self._last_s = math.nan

    def kept(self, times_s: "Floats", stride: int) -> "npt.NDArray[np.int64]":
        """Which rows of the next block are of every *stride*-th tick."""
        import numpy as np

        begins = np.diff(times_s, prepend=self._last_s) != 0
        ticks = self.count - 1 + np.cumsum(begins)
        self.count, self._last_s = int(ticks[-1]) + 1, float(times_s[-1])
        return np.flatnonzero(ticks % stride == 0)


@attrs.frozen
class _Source:
    """
    A file that is merged.

    Attributes:
        path: The file.
        shift_s: What its times are later by. Unit: s.
        stride: k where every k-th of its ticks is taken.
        owners: The file of each ``gpu_index``. None: it has the rows of many pieces.
    """

    path: str
    shift_s: float = 0.0
    stride: int = 1
    owners: dict[int, str] | None = None

    def blocks(self, rows: int) -> "Generator[pa.Table]":
        """What is merged of it, of at most *rows* rows that are read together."""
        ticks = _Ticks()
        with opened_series(self.path, sys.maxsize) as file:
            for whole in file.blocks(rows):
                self._check_owner(whole)
                block = whole
                if self.stride > 1:
                    block = _taken(block, ticks.kept(_times(block), self.stride))
                if self.shift_s:
                    times_s = _times(block) + self.shift_s
                    block = block.set_column(0, block.schema.field(0), _array(times_s, "float64"))
                if block.num_rows:
                    yield block

    def _check_owner(self, block: "pa.Table") -> None:
        if self.owners is None:
            return
        for index in block.column("gpu_index").unique().to_pylist():
            if self.owners.setdefault(index, self.path) != self.path:
                raise SidecarIntegrityError(
                    f"{self.path}: has gpu_index {index}, as {self.owners[index]} has"
                )


class _Head:
    """
    Rows of a file that were read and not yet taken.

    Args:
        blocks: The rows of the file.
        rows: How many there are to be, while there are any.

    Attributes:
        times_s: Their times. Unit: s.
    """

    def __init__(self, blocks: "Iterator[pa.Table]", rows: int) -> None:
        self._blocks, self._wanted = blocks, rows
        self._rows = schema_of().empty_table()
        self.times_s = _times(self._rows)

    def fill(self) -> bool:
        """Read until there are as many as there are to be. False: there are none left."""
        import numpy as np
        import pyarrow as pa

        while len(self.times_s) < self._wanted and (block := next(self._blocks, None)):
            self._rows = pa.concat_tables([self._rows, block])
            self.times_s = np.concatenate([self.times_s, _times(block)])
        return len(self.times_s) > 0

    def take(self, rows: int) -> "pa.Table":
        """The first *rows* of them."""
        taken, self._rows = self._rows.slice(0, rows), self._rows.slice(rows)
        self.times_s = self.times_s[rows:]
        return taken


def _write(
    sources: Sequence[_Source],
    file: IO[bytes],
    schema: "pa.Schema",
    rows: int,
    step: Callable[[], None],
) -> int:
    """Merge *sources* into *file*, and give how many rows that were."""
    each = max(rows // max(len(sources), 1), 1)
    written = 0
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(BlockWriter(file, schema))
        heads = [
            _Head(stack.enter_context(contextlib.closing(source.blocks(each))), -(-each // 2))
            for source in sources
        ]
        for block in _in_order(heads):
            writer.write(block)
            written += block.num_rows
            step()
    return written


def _in_order(heads: list[_Head]) -> "Iterator[pa.Table]":
    """The rows of *heads* by time; of one time those of the first head come first."""
    import numpy as np
    import pyarrow as pa

    while heads := [head for head in heads if head.fill()]:
        ends_s = [head.times_s[-1] for head in heads]
        first = int(np.argmin(ends_s))
        parts = []
        for place, head in enumerate(heads):
            # What comes after the end of the first one may be of the same time.
            side: Literal["left", "right"] = "right" if place <= first else "left"
            parts.append(head.take(int(head.times_s.searchsorted(ends_s[first], side))))
        block = pa.concat_tables(parts).combine_chunks()
        yield _taken(block, np.argsort(_times(block), kind="stable"))


def _fewer(
    sources: list[_Source], folder: str, most: int, rows: int, step: Callable[[], None]
) -> list[_Source]:
    """*most* files at most with the rows of *sources*, neighbours merged, in *folder*."""
    while len(sources) > most:
        merged = []
        for start in range(0, len(sources), most):
            path = os.path.join(folder, f"{len(sources)}.{start}")
            with open(path, "xb") as file:
                _write(sources[start : start + most], file, schema_of(), rows, step)
            merged.append(_Source(path))
        for source in sources:
            if source.owners is None:
                os.unlink(source.path)
        sources = merged
    return sources


@contextlib.contextmanager
def _new_file(path: str) -> Iterator[IO[bytes]]:
    """The new file *path*, open in the block, which is gone if that fails."""
    try:
        with open(path, "xb") as file:
            try:
                yield file
                file.flush()
            except BaseException:
                os.unlink(path)
                raise
    except LlemError:
        raise
    except OSError as fault:
        why = fault.strerror or fault
        raise StoreWriteError(
            f"{path}: could not be written: {why}; free some space, or name another file"
        ) from None


def _times(table: "pa.Table") -> "Floats":
    """The times of *table*. Read from buffers, which needs no pandas."""
    import numpy as np

    column = table.column("timestamp_s")
    parts = [
        np.frombuffer(chunk.buffers()[1], "f8")[chunk.offset : chunk.offset + len(chunk)]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts) if parts else np.empty(0)


def _taken(table: "pa.Table", rows: "npt.NDArray[np.int64]") -> "pa.Table":
    """These rows of *table*, in this order."""
    return table.take(_array(rows, "int64"))


def _array(values: "npt.NDArray[Any]", kind: str) -> "pa.Array":
    """*values*, none of which is missing. Made from buffers, which needs no pandas."""
    import pyarrow as pa

    buffer = pa.py_buffer(values)
    return pa.Array.from_buffers(getattr(pa, kind)(), len(values), [None, buffer])
