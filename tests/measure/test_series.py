"""Samples as a table."""

import math
import subprocess
import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.domain.energy import Sensor
from llem.domain.timeseries import COLUMNS
from llem.measure import to_table
from llem.protocols import Device, Samples

NAN = math.nan


def devices(count: int) -> list[Device]:
    return [
        Device(index=i, uuid=f"GPU-{i}", name="Fake", sensor=Sensor.NVML_POWER)
        for i in range(count)
    ]


def columns(rows) -> "tuple[array[float], ...]":
    return tuple(array("d", row) for row in rows)


def test_rows_are_in_tick_order() -> None:
    """All devices of the first tick come first, under one time; failed readings are null."""
    samples = Samples(
        times_s=array("d", [10.5, 11.0]),
        power_w=columns([[1, 2], [3, NAN]]),
        temperature_c=columns([[NAN, 50], [60, 70]]),
    )

    table = to_table(devices(2), samples, origin_s=10.0)

    assert table.to_pydict() == {
        "timestamp_s": [0.5, 0.5, 1.0, 1.0],
        "gpu_power_w": [1, 3, 2, None],
        "gpu_temperature_c": [None, 60, 50, 70],
        "gpu_index": [0, 1, 0, 1],
    }


def test_columns_are_those_of_the_format() -> None:
    samples = Samples(
        times_s=array("d", [0]), power_w=columns([[1]]), temperature_c=columns([[NAN]])
    )
    schema = to_table(devices(1), samples, origin_s=0).schema

    found = [
        (field.name, str(field.type).replace("float", "float32"), field.nullable)
        for field in schema
    ]
    wanted = [(c.name, {"float64": "double"}.get(c.type, c.type), c.nullable) for c in COLUMNS]
    assert found == wanted


@pytest.mark.parametrize("powers", [[], [[]], [[NAN, NAN], [NAN, NAN]]])
def test_no_table_without_power(powers) -> None:
    """Where no power was read there is no table, whatever else was."""
    samples = Samples(
        times_s=array("d", [0, 1]), power_w=columns(powers), temperature_c=columns(powers)
    )
    assert to_table(devices(len(powers)), samples, origin_s=0) is None


values = st.floats(0, 1000, width=32) | st.just(NAN)


@given(
    st.integers(1, 4).flatmap(
        lambda n: st.lists(st.tuples(*[st.tuples(values, values)] * n), min_size=1, max_size=40)
    )
)
def test_every_reading_finds_its_row(ticks) -> None:
    """Readings that are 32-bit floats come back as they were, and only NaN is null."""
    count = len(ticks[0])
    samples = Samples(
        times_s=array("d", range(len(ticks))),
        power_w=columns([tick[i][0] for tick in ticks] for i in range(count)),
        temperature_c=columns([tick[i][1] for tick in ticks] for i in range(count)),
    )

    table = to_table(devices(count), samples, origin_s=0)

    readings = [reading for tick in ticks for reading in tick]
    if all(power != power for power, _ in readings):
        assert table is None
        return
    table.validate(full=True)
    for i, name in enumerate(("gpu_power_w", "gpu_temperature_c")):
        column = [reading[i] for reading in readings]
        assert table[name].to_pylist() == [None if v != v else v for v in column]


def test_needs_no_pandas() -> None:
    """Building a table imports neither pandas nor numpy of its own accord."""
    script = """
import sys
sys.modules["pandas"] = None
from array import array
from llem.measure import to_table
assert "pyarrow" not in sys.modules
from llem.domain.energy import Sensor
from llem.protocols import Device, Samples
device = Device(index=0, uuid="a", name="b", sensor=Sensor.RAPL)
one = (array("d", [1.0]),)
samples = Samples(times_s=one[0], power_w=one, temperature_c=one)
print(to_table([device], samples, origin_s=0).num_rows)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
