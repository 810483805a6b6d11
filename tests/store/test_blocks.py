"""A time series goes through memory block by block, and comes out the same."""

import errno
import io
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llem.store.blocks
from llem.errors import ResultAccessError, SidecarIntegrityError
from llem.store.blocks import BlockWriter, SeriesFile, encoded
from llem.store.columns import schema_of
from llem.testing.examples import table_of

ROWS = 50_000
TABLE = table_of(
    [tick / 7 for tick in range(ROWS)],
    1,
    [None if tick % 97 == 0 else tick * 31 % 1009 / 8 for tick in range(ROWS)],
    [40.0 + tick // 1000 for tick in range(ROWS)],
).cast(schema_of())


def written(blocks):
    sink = io.BytesIO()
    with BlockWriter(sink, schema_of()) as writer:
        for block in blocks:
            writer.write(block)
    return sink.getvalue()


WHOLE = written([TABLE])


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(llem.store.blocks, "GROUP_ROWS", 13_000)


@given(st.lists(st.integers(0, ROWS), max_size=9).map(sorted))
def test_the_same_rows_are_the_same_bytes(cuts):
    """Whatever blocks they come in, in one row group and in several, whole and in parts."""
    edges = zip([0, *cuts], [*cuts, ROWS], strict=True)
    blocks = [TABLE.slice(start, end - start) for start, end in edges]

    assert written(blocks) == WHOLE
    assert b"".join(encoded(blocks, schema_of())) == WHOLE
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(llem.store.blocks, "GROUP_ROWS", 13_000)
        patch.setattr(llem.store.blocks, "PART_BYTES", 1)
        assert written(blocks) == written([TABLE]) != WHOLE
        assert b"".join(encoded(blocks, schema_of())) == written([TABLE])


@pytest.mark.usefixtures("small_groups")
@pytest.mark.parametrize("rows", [70, 13_000, ROWS])
def test_what_was_written_is_read(rows):
    """Row group by row group, all but the last of one size; nulls are nulls still."""
    content = written([TABLE])

    blocks = [*SeriesFile(io.BytesIO(content), "it", ROWS).blocks(rows)]

    assert pa.concat_tables(blocks).equals(TABLE)
    assert max(block.num_rows for block in blocks) <= rows
    metadata = pq.ParquetFile(io.BytesIO(content)).metadata
    groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    assert groups == [13_000, 13_000, 13_000, 11_000]


def test_a_footer_that_tells_of_more_rows_is_noticed():
    file = SeriesFile(io.BytesIO(WHOLE), "it", ROWS)
    file.rows += 1

    with pytest.raises(SidecarIntegrityError, match=f"{ROWS + 1} rows, and its pages have {ROWS}"):
        file.check()


class Failing(io.BytesIO):
    """A file on a disk that breaks."""

    is_broken = False

    def read(self, *args):
        if self.is_broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(*args)


def test_a_disk_that_breaks_is_no_damage_of_the_file():
    """It may be whole."""
    disk = Failing(WHOLE)
    file = SeriesFile(disk, "it", ROWS)
    disk.is_broken = True

    with pytest.raises(ResultAccessError, match=os.strerror(errno.EIO)):
        file.check()
