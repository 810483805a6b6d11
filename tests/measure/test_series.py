"""Samples as a table, and back."""

import itertools
import math
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.domain.energy import Sensor
from llem.domain.timeseries import COLUMNS
from llem.errors import SidecarSchemaError
from llem.measure import by_device, series, to_table
from llem.protocols import Device, Samples
from llem.testing.examples import small_table
from llem.testing.strategies import timeseries_tables

NAN = math.nan
NAMES = [column.name for column in COLUMNS]


def devices(*indices: int) -> list[Device]:
    return [
        Device(index=i, uuid=f"GPU-{i}", name="Fake", sensor=Sensor.NVML_POWER) for i in indices
    ]


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name].to_pylist() for name in NAMES), strict=True))


def from_rows(rows: list[tuple[Any, ...]]) -> pa.Table:
    schema = pa.schema([(column.name, getattr(pa, column.type)()) for column in COLUMNS])
    columns = zip(*rows, strict=True) if rows else [()] * len(NAMES)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema)


def assert_holds(table: pa.Table, rows: list[tuple[Any, ...]]) -> None:
    """Whatever its form, *table* gives each device the readings of its own *rows* alone."""
    readings = {(time, index): found for time, *found, index in rows}

    found = by_device(table)

    assert set(found) == {index for _, index in readings}
    for index, samples in found.items():
        times_s = sorted(time for time, of in readings if of == index)
        assert samples.times_s.tolist() == times_s
        for column, values in enumerate((samples.power_w, samples.temperature_c)):
            wanted = [readings[time, index][column] for time in times_s]
            assert [None if v != v else v for (v,) in values.tolist()] == wanted


def test_rows_are_in_tick_order() -> None:
    """All devices of the first tick come first, under one time; failed readings are null."""
    samples = Samples(
        times_s=[10.5, 11.0], power_w=[[1, 3], [2, NAN]], temperature_c=[[NAN, 60], [50, 70]]
    )

    table = to_table(devices(0, 1), samples, origin_s=10.0)

    assert table.to_pydict() == {
        "timestamp_s": [0.5, 0.5, 1.0, 1.0],
        "gpu_power_w": [1, 3, 2, None],
        "gpu_temperature_c": [None, 60, 50, 70],
        "gpu_index": [0, 1, 0, 1],
    }


def test_columns_are_those_of_the_format() -> None:
    samples = Samples(times_s=[0], power_w=[1], temperature_c=[NAN])
    schema = to_table(devices(0), samples, origin_s=0).schema

    found = [
        (field.name, str(field.type).replace("float", "float32"), field.nullable)
        for field in schema
    ]
    wanted = [(c.name, {"float64": "double"}.get(c.type, c.type), c.nullable) for c in COLUMNS]
    assert found == wanted


@pytest.mark.parametrize("shape", [(0, 0), (0, 2), (2, 0), (2, 1), (2, 3)])
def test_no_table_without_power(shape: tuple[int, int]) -> None:
    """Where no power was read there is no table, whatever else was."""
    samples = Samples(
        times_s=range(shape[0]), power_w=np.full(shape, NAN), temperature_c=np.full(shape, 50)
    )
    assert to_table(devices(*range(shape[1])), samples, origin_s=0) is None


def test_what_cannot_be_written_is_null() -> None:
    """A sidecar takes finite values, and what was not read as null."""
    samples = Samples(
        times_s=[0, 1, 2], power_w=[1, math.inf, 2], temperature_c=[-math.inf, NAN, 5]
    )

    table = to_table(devices(0), samples, origin_s=0)

    assert table["gpu_power_w"].to_pylist() == [1, None, 2]
    assert table["gpu_temperature_c"].to_pylist() == [None, None, 5]


def test_a_view_into_records() -> None:
    """Samples that lie apart in memory, as the sampler records them, are written one by one."""
    records = np.zeros((20, 2), [("power_w", "<f4"), ("x", "<i2"), ("temperature_c", "<f4")])
    records["power_w"] = np.arange(40).reshape(20, 2)
    records["temperature_c"] = records["power_w"] + 0.5
    samples = Samples(
        times_s=range(20), power_w=records["power_w"], temperature_c=records["temperature_c"]
    )

    table = to_table(devices(0, 1), samples, origin_s=0)

    assert table["gpu_power_w"].to_pylist() == list(range(40))
    assert table["gpu_temperature_c"].to_pylist() == [i + 0.5 for i in range(40)]


values = st.floats(0, 1000, width=32) | st.just(NAN)


@st.composite
def sampled(draw: st.DrawFn) -> tuple[list[Device], Samples]:
    indices = sorted(draw(st.sets(st.integers(0, 9), min_size=1, max_size=4)))
    steps = draw(st.lists(st.floats(0.001, 10), min_size=1, max_size=20))
    shape = len(steps), len(indices)
    cells = st.lists(values, min_size=math.prod(shape), max_size=math.prod(shape))
    power_w, temperature_c = (np.reshape(draw(cells), shape) for _ in range(2))
    power_w[-1, 0] = 100
    samples = Samples(times_s=np.cumsum(steps), power_w=power_w, temperature_c=temperature_c)
    return devices(*indices), samples


@given(sampled(), st.floats(-100, 100))
def test_round_trip(made, origin_s: float) -> None:
    """A valid table comes of the samples, and the same readings come back of it."""
    metered, samples = made

    table = to_table(metered, samples, origin_s=origin_s)
    back = by_device(table)

    table.validate(full=True)
    assert list(back) == [device.index for device in metered]
    for column, own in enumerate(back.values()):
        np.testing.assert_array_equal(own.times_s, samples.times_s - origin_s)
        np.testing.assert_array_equal(own.power_w, samples.power_w[:, [column]])
        np.testing.assert_array_equal(own.temperature_c, samples.temperature_c[:, [column]])


@given(sampled(), st.data())
def test_rows_in_any_order(made, data: st.DataObject) -> None:
    """Rows may be shuffled, and a device may have none at a tick: it was not read at it."""
    rows = rows_of(to_table(*made, origin_s=0))
    kept = data.draw(st.lists(st.sampled_from(rows), unique=True))
    assert_holds(from_rows(kept), kept)


@given(sampled(), st.sampled_from([1, 2, 3, 4096]), st.data())
def test_one_row_out_of_order(made, block: int, data: st.DataObject) -> None:
    """One that is missing, or has changed places, is noticed wherever it stands."""
    rows = rows_of(to_table(*made, origin_s=0))
    i, k = (data.draw(st.integers(0, len(rows) - 1)) for _ in range(2))
    swapped = [*rows]
    swapped[i], swapped[k] = rows[k], rows[i]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "_BLOCK", block)
        for changed in (rows, rows[:i] + rows[i + 1 :], swapped):
            assert_holds(from_rows(changed), changed)


def test_of_two_readings_the_last_counts() -> None:
    """Of one device at one time, whatever lies between."""
    rows = [(0.0, 1.0, 40.0, 0), (1.0, 2.0, 41.0, 0), (0.0, 3.0, None, 0)]
    samples = by_device(from_rows(rows))[0]
    assert samples.power_w.tolist() == [[3], [2]]
    np.testing.assert_array_equal(samples.temperature_c, [[NAN], [41]])


@pytest.mark.parametrize(
    "rows",
    [
        [(0.0, 1.0, 40.0, 1), (0.0, 2.0, 41.0, 0), (1.0, 3.0, 42.0, 1), (1.0, 4.0, 43.0, 0)],
        [(0.0, 1.0, 40.0, 0), (1.0, 2.0, 41.0, 1), (1.0, 3.0, 42.0, 0), (2.0, 4.0, 43.0, 1)],
        [(1.0, 1.0, 40.0, 0), (1.0, 2.0, 41.0, 1), (0.0, 3.0, 42.0, 0), (0.0, 4.0, 43.0, 1)],
        [(0.0, 1.0, 40.0, 0), (0.0, 2.0, 41.0, 1), (1.0, 3.0, 42.0, 0)],
        [(0.0, 1.0, 40.0, 0), (0.0, 2.0, 41.0, 1), (1.0, 3.0, 42.0, 0), (0.5, 4.0, 43.0, 1)],
        [(0.0, 1.0, 40.0, 0), (0.0, 2.0, 41.0, 1), (1.0, 3.0, 42.0, 0), (1.5, 4.0, 43.0, 1)],
        [(0.0, 1.0, 40.0, 0), (0.0, 2.0, 41.0, 0), (1.0, 3.0, 42.0, 0), (1.0, 4.0, 43.0, 0)],
    ],
    ids=[
        "devices turned round",
        "ticks of one device",
        "time runs backwards",
        "one row short",
        "a tick of two times, the later one first",
        "a tick of two times",
        "one device twice",
    ],
)
def test_what_is_nearly_regular(rows: list[tuple[Any, ...]]) -> None:
    """Rows that look like ticks of all devices and are none are read row by row."""
    assert_holds(from_rows(rows), rows)


@pytest.mark.parametrize("index", ["int8", "int16", "int64", "uint8", "uint32", "uint64"])
@pytest.mark.parametrize("floating", ["float16", "float32", "float64"])
def test_types_of_any_width(floating: str, index: str) -> None:
    """Time, power and temperature may be narrower or wider, and so may the index."""
    rows = [(0.5, 100.5, None, 0), (0.5, None, 41.5, 3), (1.5, 1.0, 2.0, 0), (1.5, 3.0, 4.0, 3)]
    types = [floating, floating, floating, index]
    schema = pa.schema([(name, getattr(pa, t)()) for name, t in zip(NAMES, types, strict=True)])
    assert_holds(from_rows(rows).cast(schema), rows)


@given(timeseries_tables(min_ticks=1), st.data())
def test_slices_and_chunks(table: pa.Table, data: st.DataObject) -> None:
    """A table may begin anywhere in its buffers, and be in pieces."""
    rows = {(time, index): (time, *found, index) for time, *found, index in rows_of(table)}
    whole = from_rows(list(rows.values()))
    cuts = sorted(data.draw(st.lists(st.integers(0, whole.num_rows), min_size=2, max_size=5)))
    pieces = pa.concat_tables([whole.slice(a, b - a) for a, b in itertools.pairwise(cuts)])
    assert_holds(pieces, rows_of(pieces))


@pytest.mark.parametrize("offset", range(20))
@pytest.mark.parametrize("length", [1, 7, 8, 9, 20])
def test_null_bits_count_from_the_slice(offset: int, length: int) -> None:
    """Which readings failed is one bit each, and a slice begins within a byte of them."""
    luck = random.Random(offset)
    rows = [
        (float(t), luck.choice([None, 1.0 + t]), luck.choice([None, 40.0]), 0) for t in range(40)
    ]
    table = from_rows(rows).slice(offset, length)
    assert_holds(table, rows[offset : offset + length])


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_no_rows(chunks: int) -> None:
    """A table of no rows is of no devices, whether or not it has chunks, and these any memory."""
    schema = from_rows([]).schema
    empty = [pa.Array.from_buffers(field.type, 0, [None, None]) for field in schema]
    columns = [
        pa.chunked_array([one] * chunks, field.type)
        for one, field in zip(empty, schema, strict=True)
    ]

    assert by_device(pa.Table.from_arrays(columns, schema=schema)) == {}


def test_devices_with_ticks_of_their_own_take_no_more_than_their_rows() -> None:
    """Where each of 1,000 devices has a tick that no other has: no table of a million readings."""
    ticks = np.arange(1000.0)
    rows = [(time, 1.0, 40.0, index) for index, time in enumerate(ticks.tolist())]

    found = by_device(from_rows(rows))

    assert sum(samples.power_w.size for samples in found.values()) == len(rows)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_column(name: str) -> None:
    """It is refused, and named."""
    with pytest.raises(SidecarSchemaError, match=f"lacks the column {name}"):
        by_device(small_table().drop_columns([name]))


def test_other_columns_are_let_be() -> None:
    """The four are found by their names."""
    table = small_table()
    more = table.append_column("note", [["x"] * table.num_rows]).select(["note", *reversed(NAMES)])
    assert_holds(more, rows_of(table))


def test_needs_no_pandas() -> None:
    """Neither way looks for pandas, and pyarrow loads where a table is made."""
    script = """
import sys
class Witness:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pandas":
            print("looked for", name)
sys.meta_path.insert(0, Witness())
from llem.measure import by_device, to_table
from llem.domain.energy import Sensor
from llem.protocols import Device, Samples
device = Device(index=0, uuid="a", name="b", sensor=Sensor.RAPL)
nan = float("nan")
samples = Samples(times_s=[1.0, 2.0], power_w=[1.0, nan], temperature_c=[nan, nan])
assert "pyarrow" not in sys.modules
print(len(by_device(to_table([device], samples, origin_s=0))[0].times_s))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2\n"
