"""All that a meter's samples tell of a window."""

import math
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.domain.conditions import Evidence, RequestSpan, TemperatureRange
from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure import device_energies, evidence, gather_evidence
from llem.measure.evidence import MAX_UTILISATION
from llem.measure.phases import phase_energies
from llem.measure.throttle import HW_THERMAL, throttling
from llem.protocols import Device, Edge, Samples

NAN = math.nan
GPU = Device(index=0, uuid="GPU-0", name="Fake", sensor=Sensor.NVML_POWER_INSTANT, period_s=1.0)
PAIR = (GPU, attrs.evolve(GPU, index=1, uuid="GPU-1"))


def gathered(
    *, ticks: int = 11, begin: float = 0.0, end: float | None = None, **columns: Any
) -> Evidence:
    """The evidence of two devices, one tick a second."""
    empty = np.full((ticks, 2), NAN)
    samples = Samples(
        **{
            "times_s": np.arange(ticks),
            "power_w": np.full((ticks, 2), 100),
            "temperature_c": empty,
            **{name: np.reshape(column, (ticks, 2)) for name, column in columns.items()},
        }
    )
    edges = [
        Edge(time_s=time, counters_j=(None, None))
        for time in (begin, ticks - 1 if end is None else end)
    ]
    return gather_evidence(PAIR, samples, *edges, origin_s=0.0)


def test_nothing_was_sampled() -> None:
    """All that is known is that there is no energy, and what went wrong."""
    edges = [Edge(time_s=time, counters_j=(None, None)) for time in (0.0, 10.0)]

    found = gather_evidence(PAIR, Samples(notes=("the driver hangs",)), *edges, origin_s=0.0)

    assert [device.energy_j for device in found.devices] == [None, None]
    assert found == Evidence(devices=found.devices, notes=("the driver hangs",))


def test_is_made_of_its_parts() -> None:
    """Energies, phases and throttling are those of the same samples between the same edges."""
    ticks = 60
    power = np.stack([np.linspace(100, 400, ticks), np.linspace(300, 50, ticks)], axis=1)
    samples = Samples(
        times_s=np.arange(ticks),
        power_w=power,
        temperature_c=power / 10,
        counter_j=power.cumsum(axis=0),
        clock_event_reasons=np.where(power > 200, HW_THERMAL, 0),
        notes=("a note",),
    )
    begin = Edge(time_s=4.5, counters_j=(0.0, 0.0))
    end = Edge(time_s=50.5, counters_j=(11_500.0, 9000.0))
    requests = [RequestSpan(start_s=5, first_token_s=15, end_s=30)]

    found = gather_evidence(PAIR, samples, begin, end, origin_s=2.0, requests=requests)

    assert found.devices == device_energies(PAIR, samples, begin, end)
    assert found.phases == phase_energies(
        PAIR, found.devices, samples, requests, begin_s=4.5, end_s=50.5
    )
    assert [phase.code for phase in found.phases] == [None] * 3
    assert found.throttles == throttling(PAIR, samples, begin, end, origin_s=2.0)
    assert [device.throttled_s > 0 for device in found.throttles] == [True, True]
    assert found.notes == ("a note",)


def test_without_requests_there_are_no_phases() -> None:
    assert gathered().phases == ()


def test_window_that_ends_before_it_begins() -> None:
    """Edges in the wrong order are refused."""
    with pytest.raises(MeterError, match=r"ends 1 s before"):
        gathered(begin=5, end=4)


readings = st.lists(st.integers(20, 90) | st.just(NAN), min_size=22, max_size=22)


@given(readings, st.tuples(*[st.floats(0, 10)] * 2).map(sorted))
def test_temperatures(celsius: list[float], edges: list[float]) -> None:
    """How far that of each device moved between the edges. None of one that was not read."""
    table = np.reshape(celsius, (11, 2))
    wanted = []
    for column, device in enumerate(PAIR):
        inside = [table[t, column] for t in range(11) if edges[0] <= t < edges[1]]
        known = [value for value in inside if value == value]
        if known:
            wanted.append(TemperatureRange(uuid=device.uuid, low_c=min(known), high_c=max(known)))

    found = gathered(begin=edges[0], end=edges[1], temperature_c=celsius)

    assert found.temperatures == tuple(wanted)


@pytest.mark.parametrize("name", ["utilisation_pct", "memory_utilisation_pct", "memory_mb"])
def test_within_the_window_alone(name: str) -> None:
    """What was read before it and after is none of its, nor what could not be read."""
    column = np.full((11, 2), 99.0)
    column[3:6] = [[10, 20], [NAN, 60], [30, 40]]

    found = gathered(begin=2.5, end=5.5, **{name: column})

    in_order = (10, 20, 60, 30, 40)
    assert found.utilisation_pct == (in_order if name == "utilisation_pct" else ())
    mean = found.memory_utilisation_pct
    assert mean == (32 if name == "memory_utilisation_pct" else None)
    assert found.peak_memory_mb == (60 if name == "memory_mb" else None)


@pytest.mark.parametrize("name", ["utilisation_pct", "memory_utilisation_pct", "memory_mb"])
def test_what_was_never_read_is_not_known(name: str) -> None:
    """It is not 0, which a device may well be at."""
    unknown = Evidence(devices=gathered().devices)
    idle = {
        "utilisation_pct": {"utilisation_pct": (0,) * 22},
        "memory_utilisation_pct": {"memory_utilisation_pct": 0},
        "memory_mb": {"peak_memory_mb": 0},
    }

    assert gathered(**{name: np.full((11, 2), NAN)}) == unknown
    found = gathered(**{name: np.zeros((11, 2))}, end=10.5)
    assert found == attrs.evolve(unknown, devices=found.devices, **idle[name])


@pytest.mark.parametrize(
    ("ticks", "kept"), [(MAX_UTILISATION, 1), (MAX_UTILISATION + 1, 2), (9001, 3)]
)
def test_utilisation_is_thinned(ticks: int, kept: int) -> None:
    """Of a long run every so many ticks are kept, and of these each device."""
    column = np.stack([np.arange(ticks), -np.arange(ticks)], axis=1)

    found = gathered(ticks=ticks + 1, utilisation_pct=np.append(column, [[0, 0]], axis=0))

    assert len(found.utilisation_pct) <= 2 * MAX_UTILISATION
    assert found.utilisation_pct[::2] == tuple(range(0, ticks, kept))
    assert found.utilisation_pct[1::2] == tuple(range(0, -ticks, -kept))


@given(st.integers(0, 60), st.integers(1, 12), st.integers(1, 20))
def test_utilisation_stays_within_bounds(ticks: int, count: int, most: int) -> None:
    """Of each device, however many there are, as many readings are kept as of any other."""
    devices = [attrs.evolve(GPU, index=index, uuid=f"GPU-{index}") for index in range(count)]
    column = np.broadcast_to(np.arange(count), (ticks, count))
    samples = Samples(
        times_s=np.arange(ticks), power_w=column, temperature_c=column, utilisation_pct=column
    )
    edges = [Edge(time_s=time, counters_j=(None,) * count) for time in (0.0, 100.0)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence, "MAX_UTILISATION", most)
        found = gather_evidence(devices, samples, *edges, origin_s=0.0).utilisation_pct

    assert len(found) <= most * count
    assert found == tuple(range(count)) * (len(found) // count)
    assert bool(found) == bool(ticks)
