"""
A time series by blocks of rows: read from a file, and written as one.

Memory holds a block and a row group, however long the time series is.
"""

import contextlib
import io
import math
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, Self

from llem.errors import ResultAccessError, SidecarIntegrityError
from llem.store.columns import as_written, check_nulls, check_rows, check_schema
from llem.store.reading import opened_regular_file

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK_ROWS = 2**16
"""Rows that are read together."""

GROUP_ROWS = 2**17
"""Rows of a row group: whatever comes in, each but the last has as many."""

READ_BUFFER = 2**16
"""What is read ahead of each column of a file. Unit: bytes."""

PART_BYTES = 2**16
"""Least that is given away at once of a file that is being made. Unit: bytes."""

_SPLIT = {"timestamp_s": "BYTE_STREAM_SPLIT", "gpu_power_w": "BYTE_STREAM_SPLIT"}
_DICTIONARY: Any = ["gpu_temperature_c", "gpu_index"]


def max_bytes(max_rows: int) -> int:
    """Largest file that *max_rows* rows may take. Unit: bytes."""
    return 64 * max_rows + 2**20


@contextlib.contextmanager
def opened_series(path: str, max_rows: int) -> Iterator["SeriesFile"]:
    """
    The time series in the Parquet file *path*, which is open as long as the block runs.

    Raises:
        ResultNotFoundError: There is no such file.
        ResultAccessError: It is no regular file, or may not be read.
        SidecarIntegrityError: It is no Parquet, or has more than *max_rows* rows.
        SidecarSchemaError: Its columns are not the four of a time series.
    """
    with opened_regular_file(
        path,
        limit=max_bytes(max_rows),
        too_large=SidecarIntegrityError,
        what="Parquet file",
    ) as file:
        yield SeriesFile(file, path, max_rows)


class SeriesFile:
    """
    The time series in an open Parquet file, of which the footer alone is read at first.

    Args:
        file: The file.
        source: What errors call it.
        max_rows: Most rows that are taken.

    Attributes:
        source: What errors call it.
        rows: How many rows it has.
        told: The metadata of the file.

    Raises:
        SidecarIntegrityError: It is no Parquet, or has more than *max_rows* rows.
        SidecarSchemaError: Its columns are not the four of a time series.
    """

    def __init__(self, file: IO[bytes], source: str, max_rows: int) -> None:
        import pyarrow.parquet as pq

        self.source = source
        with readable(source):
            self._parquet = pq.ParquetFile(file, pre_buffer=False, buffer_size=READ_BUFFER)
            self.rows = rows_of(self._parquet.metadata)
            schema = self._parquet.schema_arrow
        check_schema(schema, source)
        check_rows(self.rows, source, max_rows)
        self.told: dict[bytes, bytes] = schema.metadata or {}

    def blocks(self, rows: int = BLOCK_ROWS) -> Iterator["pa.Table"]:
        """
        Its rows from the first on, as they are written, at most *rows* of them at a time.

        Raises:
            SidecarIntegrityError: A page cannot be decoded, or the footer has the number wrong.
            SidecarSchemaError: A value is none that a meter gives.
            ResultAccessError: The file can no longer be read.
        """
        import pyarrow as pa

        left, after_s = self.rows, -math.inf
        with readable(self.source):
            batches = iter(self._parquet.iter_batches(batch_size=rows, use_threads=False))
        while True:
            with readable(self.source):
                batch = next(batches, None)
            if batch is None:
                break
            block = pa.Table.from_batches([batch])
            check_nulls(block, self.source)
            block = as_written(block, self.source, after_s=after_s)
            left -= block.num_rows
            if block.num_rows:
                after_s = block.column("timestamp_s")[-1].as_py()
                yield block
        if left:
            raise SidecarIntegrityError(
                f"{self.source}: is no whole Parquet file: its footer tells of {self.rows} rows, "
                f"and its pages have {self.rows - left}"
            )

    def check(self) -> None:
        """Read it to its end, and raise what `blocks` raises."""
        for _ in self.blocks():
            pass


@contextlib.contextmanager
def readable(source: str) -> Iterator[None]:
    """Have it said of *source* what pyarrow meets in it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as fault:
        if isinstance(fault, OSError) and fault.errno is not None:
            raise ResultAccessError(f"{source}: cannot be read: {fault.strerror}") from None
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise SidecarIntegrityError(f"{source}: is no whole Parquet file: {reason}") from None


def rows_of(metadata: Any) -> int:
    """How many rows a file has, by itself and by its row groups, which are what is decoded."""
    rows: int = metadata.num_rows
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    if sum(groups) != rows or min(groups, default=0) < 0:
        raise ValueError(f"it says that it has {rows} rows, and its row groups have others")
    return rows


class BlockWriter:
    """
    Writes a time series: the same bytes for the same rows, whatever blocks they come in.

    Time and power are split by byte, which brings equal bytes of neighbouring values together;
    index and temperature, of few values each, are a dictionary; zstd does the rest.

    Args:
        sink: Where the bytes go: a file open for writing, or a stream of pyarrow.
        schema: The columns, and the metadata of the file.
    """

    def __init__(self, sink: Any, schema: "pa.Schema") -> None:
        import pyarrow.parquet as pq

        self._schema = schema
        self._held: list[pa.Table] = []
        self._rows = 0
        self._writer = pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            use_dictionary=_DICTIONARY,
            column_encoding=_SPLIT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Close it, or let go of it where the block failed: then there is no file to be read."""
        try:
            if kind is None:
                self.close()
        finally:
            # Or it would close itself, and fail once more, whenever it is collected.
            self._writer.is_open = False

    def write(self, block: "pa.Table") -> None:
        """Take *block*, and write the row groups that are full."""
        self._held.append(block.cast(self._schema))
        self._rows += block.num_rows
        if self._rows >= GROUP_ROWS:
            self._flush(self._rows - self._rows % GROUP_ROWS)

    def close(self) -> None:
        """Write the rest, and the footer."""
        if self._rows:
            self._flush(self._rows)
        self._writer.close()

    def _flush(self, rows: int) -> None:
        import pyarrow as pa

        table = pa.concat_tables(self._held)
        for start in range(0, rows, GROUP_ROWS):
            group = table.slice(start, min(GROUP_ROWS, rows - start))
            self._writer.write_table(group, row_group_size=GROUP_ROWS)
        self._held = [table.slice(rows)]
        self._rows -= rows


def encoded(blocks: Iterable["pa.Table"], schema: "pa.Schema") -> Iterator[bytes]:
    """The bytes of a file with the rows of *blocks*, part by part, as they come about."""
    sink = _Sink()
    with BlockWriter(sink, schema) as writer:
        for block in blocks:
            writer.write(block)
            if sink.waiting >= PART_BYTES:
                yield sink.taken()
    yield sink.taken()


class _Sink(io.RawIOBase):
    """
    Takes what is written, and gives it away.

    Attributes:
        waiting: How much was written and not yet taken. Unit: bytes.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self._parts: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: Any, /) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._size += len(part)
        self.waiting += len(part)
        return len(part)

    def taken(self) -> bytes:
        """What was written since it was taken last."""
        parts, self._parts, self.waiting = self._parts, [], 0
        return b"".join(parts)
