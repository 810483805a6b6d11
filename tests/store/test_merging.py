"""The time series of a run, which is there as long as its result is being kept."""

import os
import subprocess
from datetime import timedelta

import attrs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from spooling import CONDITIONS, PROCESS, begun, look, process_of

from llem.errors import LlemError, StoreWriteError
from llem.store import ResultStore, merged
from llem.testing.examples import table_of


def sampled(one, index, *, after_s):
    """Leave process *index*, which began that much after the others, with two ticks of a device."""
    device = attrs.evolve(PROCESS.devices[0], gpu_index=index, uuid=f"GPU-{index}")
    started = CONDITIONS.start_time + timedelta(seconds=after_s)
    table = table_of([0.0, 0.1], 1, [100.0, 101.0], [40.0, 41.0])
    one.leave(
        attrs.evolve(process_of(index), devices=(device,)),
        attrs.evolve(CONDITIONS, start_time=started),
        table.set_column(3, "gpu_index", pa.array([index] * 2, table.schema.types[3])),
    )


def merging(one, root, max_rows=99):
    parts = [one.read(index) for index in one.indices()]
    return merged(parts, root=root, start_time=CONDITIONS.start_time, max_rows=max_rows)


def test_the_samples_of_all_processes_are_one_series_meanwhile(tmp_path):
    """By the time of the run."""
    one = begun(tmp_path, 3)
    sampled(one, 0, after_s=0.5)
    sampled(one, 1, after_s=0.0)
    one.leave(process_of(2), CONDITIONS)

    with merging(one, tmp_path / "other") as path:
        rows = pq.read_table(path).to_pydict()
        assert path.startswith(str(tmp_path / "other"))
        assert ResultStore(tmp_path / "other").verify().faults == ()

    pairs = [*zip(rows["timestamp_s"], rows["gpu_index"], strict=True)]
    assert pairs == [(0.0, 1), (0.1, 1), (0.5, 0), (0.6, 0)]
    assert os.listdir(tmp_path / "other" / ".llem-tmp") == []
    assert look(one).complete


def test_none_stays_where_keeping_it_fails(tmp_path):
    """Nor where it does not fit."""
    one = begun(tmp_path, 1)
    sampled(one, 0, after_s=0.0)

    with pytest.raises(ZeroDivisionError), merging(one, tmp_path):
        raise ZeroDivisionError
    with pytest.raises(LlemError), merging(one, tmp_path, max_rows=0):
        pass

    assert os.listdir(tmp_path / ".llem-tmp") == []


def test_processes_without_samples_have_none(tmp_path):
    """And nothing is made for it."""
    one = begun(tmp_path, 1)
    one.leave(process_of(0), CONDITIONS)

    with merging(one, tmp_path / "other") as path:
        assert path is None

    assert not (tmp_path / "other").exists()


def test_a_root_that_cannot_be_written(tmp_path):
    """Another one is asked for."""
    one = begun(tmp_path, 1)
    sampled(one, 0, after_s=0.0)
    (tmp_path / "file").write_text("x")

    with pytest.raises(StoreWriteError, match="another root"), merging(one, tmp_path / "file"):
        pytest.fail("was merged")


def test_a_spool_that_cannot_be_written(tmp_path):
    """What it holds is merged elsewhere."""
    one = begun(tmp_path / "frozen", 1)
    sampled(one, 0, after_s=0.0)
    place = str(tmp_path / "frozen")
    bound = ["mount", "--bind", place, place], ["mount", "-o", "remount,ro,bind", place]
    if any(subprocess.run(how, check=False, capture_output=True).returncode for how in bound):
        pytest.skip("may not mount anything")
    try:
        with merging(one, tmp_path / "other") as path:
            assert pq.read_table(path).num_rows == 2
    finally:
        subprocess.run(["umount", place], check=True)
