"""The pieces that processes left become one time series: every row once, by time, and no more."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llem.store.merge
from llem.domain.timeseries import MAX_REQUESTS, REQUESTS_KEY, STRIDE_KEY, TIMING_KEY
from llem.errors import (
    ResultNotFoundError,
    SidecarIntegrityError,
    SidecarSchemaError,
    StoreWriteError,
)
from llem.store import ResultStore
from llem.store.blocks import BlockWriter
from llem.store.columns import RUN_KEY, schema_of
from llem.store.merge import Piece, merge
from llem.testing import small_result, small_table
from llem.testing.examples import table_of

TIMES = st.lists(st.integers(0, 12).map(lambda n: n / 4), max_size=9).map(sorted)
"""Few values, so that rows of one piece and of several are of one time."""

READING = st.none() | st.floats(0, 1000, width=32)


def write(path, table, told=None):
    """A piece, in the format of a sidecar."""
    with BlockWriter(path, schema_of(told)) as writer:
        writer.write(table.cast(schema_of()))
    return path


def renumbered(table, first):
    index = pa.array([first + i for i in table["gpu_index"].to_pylist()], pa.int32())
    return table.set_column(3, table.field(3), index)


@st.composite
def tables(draw):
    """One to five pieces of one to three devices each, numbered over all of them."""
    made, first = [], 0
    for _ in range(draw(st.integers(1, 5))):
        devices, times = draw(st.integers(1, 3)), draw(TIMES)
        rows = devices * len(times)
        power, celsius = [draw(st.lists(READING, min_size=rows, max_size=rows)) for _ in range(2)]
        made.append(renumbered(table_of(times, devices, power, celsius), first))
        first += devices
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A new folder whenever it is called."""
    return lambda: tmp_path_factory.mktemp("merge")


def pieces_of(folder, tables, shifts=None, told=None):
    shifts = shifts or [0.0] * len(tables)
    told = told or [None] * len(tables)
    return [
        Piece(
            path=write(folder / f"{i}.parquet", table, told[i]),
            shift_s=shifts[i],
            process_index=i,
        )
        for i, table in enumerate(tables)
    ]


def merged(folder, pieces, **options):
    path = folder / "merged.parquet"
    rows = merge(pieces, path, **options)
    table = pq.ParquetFile(path).read()
    assert table.num_rows == rows
    return table


def rows_of(table, shift_s=0.0):
    rows = zip(*(column.to_pylist() for column in table.columns), strict=True)
    return [(time + shift_s, *others) for time, *others in rows]


SHIFTS = st.lists(st.sampled_from([0.0, 0.25, -1.5, 0.1]), min_size=5, max_size=5)


@given(made=tables(), shifts=SHIFTS)
def test_every_row_is_there_once_by_time(folder, made, shifts):
    """Shifted; of one time those of the first process come first, as they were in its piece."""
    here = folder()

    table = merged(here, pieces_of(here, made, shifts))

    expected = [row for one, by in zip(made, shifts, strict=False) for row in rows_of(one, by)]
    # Python's sort is stable.
    assert rows_of(table) == sorted(expected, key=lambda row: row[0])
    assert table.schema.equals(schema_of())


@given(
    made=tables(), shifts=SHIFTS, block_rows=st.integers(1, 12), max_open=st.sampled_from([2, 3, 9])
)
def test_it_does_not_matter_how_much_is_read_at_once(folder, made, shifts, block_rows, max_open):
    """The file is the same, to the byte. Nor does it in what order the pieces are given."""
    here = folder()
    pieces = pieces_of(here, made, shifts)
    merge(pieces, here / "whole")

    merge(pieces[::-1], here / "parts", block_rows=block_rows, max_open=max_open)

    assert (here / "whole").read_bytes() == (here / "parts").read_bytes()
    assert len(os.listdir(here)) == len(pieces) + 2


@given(made=tables())
def test_one_piece_is_what_it_was(folder, made):
    """To the byte, but for the devices and whose run it is, which a store adds."""
    here = folder()
    told = {TIMING_KEY: b'{"0": {"limit_w": 1.5}}', REQUESTS_KEY: b"[[1,null,3]]"}
    (piece,) = pieces_of(here, made[:1], told=[told])

    merge([piece], here / "merged")

    assert (here / "merged").read_bytes() == Path(piece.path).read_bytes()


@given(made=tables(), block_rows=st.integers(1, 12), least=st.integers(0, 8))
def test_what_is_too_much_is_thinned_by_whole_ticks(folder, made, block_rows, least):
    """Every k-th of each piece, the first one too; the file tells k, and fits."""
    here = folder()
    pieces = pieces_of(here, made)
    firsts = sum(len([row for row in rows_of(t) if row[0] == t[0][0].as_py()]) for t in made if t)
    most = firsts + least

    table = merged(here, pieces, max_rows=most, block_rows=block_rows)

    stride = int((table.schema.metadata or {}).get(STRIDE_KEY, 1))
    expected = []
    for one in made:
        ticks = sorted(set(one["timestamp_s"].to_pylist()))[::stride]
        expected += [row for row in rows_of(one) if row[0] in ticks]
    assert rows_of(table) == sorted(expected, key=lambda row: row[0])
    assert table.num_rows <= most
    assert (stride > 1) == (sum(one.num_rows for one in made) > most)


def test_a_stride_is_no_larger_than_it_must_be(tmp_path):
    """Of 1,000 ticks and 500 more, for 300 rows: every fifth."""
    made = [table_of([*map(float, range(n))], 1, [1.0] * n, [None] * n) for n in (1000, 500)]
    pieces = pieces_of(tmp_path, [made[0], renumbered(made[1], 1)])

    table = merged(tmp_path, pieces, max_rows=300)

    assert table.schema.metadata[STRIDE_KEY] == b"5"
    assert table.num_rows == 300


def test_ticks_that_are_too_large_are_refused(tmp_path):
    """No stride leaves out the first one."""
    pieces = pieces_of(tmp_path, [small_table()])

    with pytest.raises(SidecarIntegrityError, match="over the limit of 1") as caught:
        merge(pieces, tmp_path / "merged", max_rows=1)

    assert caught.value.over_limit
    assert not (tmp_path / "merged").exists()


def test_what_was_merged_further_takes_no_more_space(tmp_path, monkeypatch):
    """Of five pieces, two at a time: of all that lay between, the last two files are there."""
    made = [renumbered(small_table(), first) for first in range(0, 10, 2)]
    pieces, seen = pieces_of(tmp_path, made), []
    write = llem.store.merge._write

    def look(*args):
        seen.append(len([*tmp_path.glob("*/*")]))
        return write(*args)

    monkeypatch.setattr(llem.store.merge, "_write", look)
    merge(pieces, tmp_path / "merged", max_open=2)

    assert seen[-1] == 2
    assert sorted(os.listdir(tmp_path)) == [*(f"{i}.parquet" for i in range(5)), "merged"]


# What they tell


def timing(period_s, **others):
    return {"limit_w": 300.0, "period_s": period_s, "refresh_s": 0.1} | others


def told_of(**told):
    keys = {"timing": TIMING_KEY, "requests": REQUESTS_KEY, "run": RUN_KEY}
    return {
        keys[name]: value if isinstance(value, bytes) else json.dumps(value).encode()
        for name, value in told.items()
    }


def two(tmp_path, *told, shifts=(0.0, 2.0)):
    made = [small_table(), renumbered(small_table(), 2)]
    return pieces_of(tmp_path, made, shifts, told)


def test_what_the_pieces_tell_is_told_together(tmp_path):
    """Requests by process, on the record's time axis, in whole microseconds."""
    pieces = two(
        tmp_path,
        told_of(timing={"0": timing(0.02), "1": timing(None)}, requests=[[1, 2, 3]], run=b"mine"),
        told_of(timing={"2": timing(0.1)}, requests=[[-5, None, 7], [8, 9, 10]], run=b"mine"),
        shifts=(-0.5, 2.0000006),
    )

    told = merged(tmp_path, pieces).schema.metadata

    assert json.loads(told[TIMING_KEY]) == {
        "0": timing(0.02),
        "1": timing(None),
        "2": timing(0.1),
    }
    assert json.loads(told[REQUESTS_KEY]) == {
        "0": [[-499_999, -499_998, -499_997]],
        "1": [[1_999_996, None, 2_000_008], [2_000_009, 2_000_010, 2_000_011]],
    }
    assert told[RUN_KEY] == b"mine"
    assert STRIDE_KEY not in told


def test_a_period_is_that_of_the_ticks_that_are_kept(tmp_path):
    pieces = two(
        tmp_path,
        told_of(timing={"0": timing(0.02), "1": timing(None)}),
        told_of(timing={"2": 5}),
    )

    told = merged(tmp_path, pieces, max_rows=5).schema.metadata

    assert told[STRIDE_KEY] == b"2"
    assert json.loads(told[TIMING_KEY]) == {"0": timing(0.04), "1": timing(None), "2": 5}


@pytest.mark.parametrize("odd", [b"", b"{", b"[5]", b"\xff", b"7", b"[[1,2]]", b'[["a",1,2]]'])
def test_what_a_piece_does_not_tell_is_left_out(tmp_path, odd):
    """And all else is told."""
    good = told_of(timing={"0": timing(0.02)}, requests=[[1, 2, 3]])
    pieces = two(tmp_path, good, told_of(timing=odd, requests=odd), shifts=(0.0, 0.0))

    told = merged(tmp_path, pieces).schema.metadata

    assert json.loads(told[TIMING_KEY]) == {"0": timing(0.02)}
    assert json.loads(told[REQUESTS_KEY]) == {"0": [[1, 2, 3]]}


def test_pieces_that_tell_nothing(tmp_path):
    assert merged(tmp_path, two(tmp_path, None, None)).schema.metadata is None


@pytest.mark.parametrize("more", [0, 1])
def test_more_requests_than_a_footer_is_to_hold_are_not_told(tmp_path, more):
    """Of all processes together."""
    requests = [[1, None, 2]] * (MAX_REQUESTS - 1)
    pieces = two(
        tmp_path, told_of(requests=requests), told_of(requests=[[1, None, 2]] * (1 + more))
    )

    told = merged(tmp_path, pieces).schema.metadata or {}

    assert (REQUESTS_KEY in told) is (more == 0)


# What is refused


def test_an_index_of_another_piece_is_refused(tmp_path):
    """Its rows could no longer be told apart. Both files are named."""
    pieces = pieces_of(tmp_path, [small_table(), renumbered(small_table(), 1)])

    for max_open in (2, 32):
        with pytest.raises(SidecarIntegrityError, match=r"1\.parquet: has gpu_index 1.*0\.parquet"):
            merge(pieces, tmp_path / "merged", max_open=max_open)
    assert not (tmp_path / "merged").exists()


def test_an_index_of_another_piece_is_refused_among_many(tmp_path):
    """Where they are not merged at once."""
    made = [renumbered(small_table(), first) for first in (0, 2, 4, 6, 1)]

    with pytest.raises(SidecarIntegrityError, match=r"4\.parquet: has gpu_index 1"):
        merge(pieces_of(tmp_path, made), tmp_path / "merged", max_open=2)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ((told_of(run=b"a"), told_of(run=b"b")), "samples of 'b', not of 'a'"),
        (
            (told_of(timing={"0": {}}), told_of(timing={"0": {}})),
            "1.parquet: has gpu_index 0, as another",
        ),
    ],
)
def test_pieces_that_do_not_go_together_are_refused(tmp_path, told, why):
    with pytest.raises(SidecarIntegrityError, match=why):
        merge(two(tmp_path, *told), tmp_path / "merged")


def test_two_pieces_of_one_process_are_refused(tmp_path):
    first, second = two(tmp_path, None, None)
    pieces = [first, Piece(path=second.path, process_index=0)]

    with pytest.raises(SidecarIntegrityError, match=r"1\.parquet: is of process 0"):
        merge(pieces, tmp_path / "merged")


@pytest.mark.parametrize("shift_s", [math.nan, math.inf])
def test_a_shift_that_is_none_is_refused(tmp_path, shift_s):
    with pytest.raises(SidecarSchemaError, match="is shifted by"):
        merge(pieces_of(tmp_path, [small_table()], [shift_s]), tmp_path / "merged")


BAD = {
    "gone": (lambda path: path.unlink(), ResultNotFoundError),
    "no parquet": (lambda path: path.write_bytes(b"PAR1"), SidecarIntegrityError),
    "other columns": (
        lambda path: pq.write_table(small_table().drop_columns(["gpu_index"]), path),
        SidecarSchemaError,
    ),
    "times that decrease": (
        lambda path: pq.write_table(small_table()[::-1], path),
        SidecarSchemaError,
    ),
    "negative index": (
        lambda path: pq.write_table(renumbered(small_table(), -1), path),
        SidecarSchemaError,
    ),
    "a null time": (
        lambda path: pq.write_table(
            small_table().set_column(0, "timestamp_s", pa.array([None, 0.0, 1.0, 1.0])), path
        ),
        SidecarSchemaError,
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_piece_that_is_none_is_named(tmp_path, kind):
    """And nothing is left of what was written."""
    spoil, error = BAD[kind]
    pieces = two(tmp_path, None, None)
    spoil(Path(pieces[1].path))

    with pytest.raises(error, match=r"1\.parquet"):
        merge(pieces, tmp_path / "merged")

    assert not (tmp_path / "merged").exists()


def test_times_that_decrease_between_two_blocks_are_refused(tmp_path):
    """Each of them is in order."""
    table = pa.concat_tables([small_table(), small_table()])
    pq.write_table(table, tmp_path / "0.parquet")
    piece = Piece(path=tmp_path / "0.parquet", process_index=0)

    with pytest.raises(SidecarSchemaError, match="must not decrease"):
        merge([piece], tmp_path / "merged", block_rows=4)


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    path = tmp_path / "merged"
    path.write_text("theirs")

    with pytest.raises(StoreWriteError, match=os.strerror(errno.EEXIST)):
        merge(two(tmp_path, None, None), path)

    assert path.read_text() == "theirs"


def test_a_disk_that_is_full_leaves_nothing(tmp_path, monkeypatch):
    """At the first row group, or at the footer."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    pieces = two(tmp_path, None, None)
    for name in ("write", "close"):
        with monkeypatch.context() as patch:
            patch.setattr(BlockWriter, name, full)
            with pytest.raises(StoreWriteError, match="free some space"):
                merge(pieces, tmp_path / "merged")
        assert not (tmp_path / "merged").exists()


# And then


def test_what_was_merged_is_put(tmp_path):
    """As its path, with all that it tells."""
    store = ResultStore(tmp_path / "root")
    told = told_of(timing={"0": timing(0.02)}, requests=[[1, 2, 3]], run=b"exp-1")
    pieces = two(tmp_path, told, told_of(requests=[[1, 2, 3]], run=b"exp-1"))
    table = merged(tmp_path, pieces, max_rows=5)

    kept = store.put(small_result(), timeseries=tmp_path / "merged.parquet")

    assert store.timeseries(kept).equals(table)
    for key in (TIMING_KEY, REQUESTS_KEY, STRIDE_KEY):
        assert store.timeseries(kept).schema.metadata[key] == table.schema.metadata[key]


GROWTH = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from llem.store import ResultStore
from llem.store.merge import Piece, merge
from llem.store.blocks import BlockWriter
from llem.store.columns import schema_of
from llem.testing import small_result

folder, pieces, ticks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])

def array(values, kind):
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(values)])

def block(index, first, count):
    rng = np.random.default_rng(index + first)
    times = 0.1 * np.arange(first, first + count) + rng.uniform(0, 0.05, count)
    return pa.Table.from_arrays([
        array(times, pa.float64()),
        array(rng.normal(300, 5, count).astype("f4"), pa.float32()),
        array(rng.integers(40, 50, count).astype("f4"), pa.float32()),
        array(np.full(count, index, "i4"), pa.int32()),
    ], schema=schema_of())

def written(index, ticks):
    path = folder / f"{index}.{ticks}.parquet"
    with BlockWriter(path, schema_of()) as writer:
        for first in range(0, ticks, 50_000):
            writer.write(block(index, first, min(50_000, ticks - first)))
    return Piece(path=path, shift_s=index * 0.01, process_index=index)

def now():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10

def kept(made, into):
    rows, merging = merge(made, into), now()
    ResultStore(folder / "root").put(small_result(), timeseries=into)
    return rows, merging, now()

kept([written(index, 10) for index in range(40)], folder / "first")
made = [written(index, ticks) for index in range(pieces)]
start = now()
rows, merging, putting = kept(made, folder / "merged")
print(rows, merging - start, putting - start)
"""


def growth_mb(folder, pieces, ticks):
    """Rows that were merged and put, and the MiB that each of these had memory grow by."""
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(folder), str(pieces), str(ticks)],
        check=True,
        capture_output=True,
        text=True,
    )
    return [float(word) for word in done.stdout.split()]


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Of a piece that is eight times as long no more is in memory."""
    rows, *small = growth_mb(tmp_path / "small", 4, 150_000)
    many, *large = growth_mb(tmp_path / "large", 4, 8 * 150_000)

    assert (rows, many) == (600_000, 4_800_000)
    # The table of the latter is of 92 MiB.
    assert max(large) < max(small) + 16
    assert max(large) < 64


def test_memory_does_not_grow_with_the_pieces(tmp_path):
    """Nor do open files: there may be more pieces than a process may open."""
    rows, merging, _ = growth_mb(tmp_path / "many", 300, 3000)

    assert rows == 900_000
    assert merging < 64


def test_numpy_and_arrow_agree_on_what_is_equal():
    """Both zeros are of one time."""
    assert np.array([-0.0]).searchsorted(0.0, "right") == 1
