"""Energy of 10 million rows of 8 devices, beside a mask a device and numpy's trapezoid rule."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest

from llem.domain.energy import Sensor
from llem.measure import by_device, device_energies
from llem.protocols import Device, Edge, Samples

ROWS, DEVICES, PERIOD_S = 10_000_000, 8, 0.01


@pytest.fixture(scope="module")
def table():
    """The columns of a time series in tick order, as a sidecar keeps them."""
    ticks = ROWS // DEVICES
    random = np.random.default_rng(1)
    return {
        "timestamp_s": np.repeat(np.arange(ticks) * PERIOD_S, DEVICES),
        "gpu_power_w": random.normal(400, 50, ROWS).astype("f4"),
        "gpu_temperature_c": np.full(ROWS, 60, "f4"),
        "gpu_index": np.tile(np.arange(DEVICES, dtype="i4"), ticks),
    }


def masks(table):
    """What one writes without a second thought."""
    energies = []
    for device in range(DEVICES):
        mask = table["gpu_index"] == device
        energies.append(np.trapezoid(table["gpu_power_w"][mask], table["timestamp_s"][mask]))
    return energies


def integrals(samples, count=DEVICES):
    devices = [
        Device(index=i, uuid=f"GPU-{i}", name="GPU", sensor=Sensor.REPLAY, period_s=PERIOD_S)
        for i in range(count)
    ]
    edges = (Edge(time_s=float(t), counters_j=(None,) * count) for t in samples.times_s[[0, -1]])
    return [found.integrated_j for found in device_energies(devices, samples, *edges)]


def test_ten_million_rows(compare, table, capsys):
    """With the evidence: bound, gaps, coverage. From samples in memory, and from a table."""
    arrow = pa.table(table)

    def from_memory():
        return integrals(
            Samples(
                times_s=table["timestamp_s"][::DEVICES],
                power_w=table["gpu_power_w"].reshape(-1, DEVICES),
                temperature_c=table["gpu_temperature_c"].reshape(-1, DEVICES),
            )
        )

    tracemalloc.start()
    found = from_memory()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == pytest.approx(masks(table), rel=1e-6)

    compare(
        {
            "llem": from_memory,
            "llem from a table": lambda: [integrals(one, 1) for one in by_device(arrow).values()],
            "masks and numpy.trapezoid": lambda: masks(table),
        },
        reference="masks and numpy.trapezoid",
        rounds=7,
    )
    with capsys.disabled():
        print(f"\nllem: {peak / 2**20:.1f} MiB at most beside the samples")
