"""Whether GPUs slowed themselves down, and for how long."""

import time
from collections.abc import Sequence

import attrs
import numpy as np
import pynvml
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.domain.conditions import DeviceThrottle, TemperatureRange
from llem.domain.energy import Sensor, ThermalThrottleInfo
from llem.measure import throttle
from llem.measure.throttle import MAX_ONSETS, throttle_info, throttling
from llem.protocols import Device, Edge, Samples

IDLE, CLOCKS, CAP, SLOW, BOOST, SW_THERMAL, HW_THERMAL, BRAKE, DISPLAY = (1 << i for i in range(9))
CAUSE_FLAGS = ("sw_thermal", "hw_thermal", "hw_power")
CAUSES = ("sw_thermal_s", "hw_thermal_s", "hw_power_s", "hw_other_s", "power_cap_s")


def gpus(count: int) -> list[Device]:
    return [
        Device(index=i, uuid=f"GPU-{i}", name="Fake", sensor=Sensor.NVML_POWER)
        for i in range(count)
    ]


def sampled(times_s: Sequence[float], *columns: Sequence[int]) -> Samples:
    """Samples whose clock event reasons are *columns*, one for each GPU."""
    shape = len(times_s), len(columns)
    return Samples(
        times_s=times_s,
        power_w=np.zeros(shape),
        temperature_c=np.zeros(shape),
        clock_event_reasons=np.array(columns, "u4").reshape(shape[::-1]).T,
    )


def seen(
    samples: Samples, begin_s: float = 0.0, end_s: float = 10.0, *, origin_s: float = 0.0
) -> tuple[DeviceThrottle, ...]:
    begin, end = (Edge(time_s=time_s, counters_j=()) for time_s in (begin_s, end_s))
    return throttling(gpus(samples.power_w.shape[1]), samples, begin, end, origin_s=origin_s)


def of(reasons: Sequence[int], *window_s: float, origin_s: float = 0.0) -> DeviceThrottle:
    """Of one GPU with a tick a second from 0 s on."""
    (device,) = seen(sampled(range(len(reasons)), reasons), *window_s, origin_s=origin_s)
    return device


def causes(device: DeviceThrottle) -> dict[str, float]:
    return {name: getattr(device, name) for name in CAUSES if getattr(device, name)}


@pytest.mark.parametrize(
    ("bit", "name"),
    [
        (throttle.SW_POWER_CAP, "SwPowerCap"),
        (throttle.HW_SLOWDOWN, "HwSlowdown"),
        (throttle.SW_THERMAL, "SwThermalSlowdown"),
        (throttle.HW_THERMAL, "HwThermalSlowdown"),
        (throttle.HW_POWER_BRAKE, "HwPowerBrakeSlowdown"),
    ],
)
def test_bits_are_those_of_nvml(bit: int, name: str) -> None:
    """As NVIDIA's own binding has them."""
    assert bit == getattr(pynvml, f"nvmlClocksThrottleReason{name}")


@pytest.mark.parametrize(
    ("bits", "named", "throttled_s"),
    [
        (0, {}, 0),
        (IDLE | CLOCKS | BOOST | DISPLAY | 0x200 | 0x400, {}, 0),
        (CAP, {"power_cap_s": 10}, 0),
        (SW_THERMAL, {"sw_thermal_s": 10}, 10),
        (HW_THERMAL, {"hw_thermal_s": 10}, 10),
        (BRAKE, {"hw_power_s": 10}, 10),
        (SLOW, {"hw_other_s": 10}, 10),
        (SLOW | HW_THERMAL, {"hw_thermal_s": 10}, 10),
        (SLOW | BRAKE, {"hw_power_s": 10}, 10),
        (SLOW | SW_THERMAL, {"sw_thermal_s": 10, "hw_other_s": 10}, 10),
        (CAP | SW_THERMAL, {"sw_thermal_s": 10, "power_cap_s": 10}, 10),
        (HW_THERMAL | BRAKE | SW_THERMAL, dict.fromkeys(CAUSES[:3], 10), 10),
    ],
)
def test_what_each_bit_counts_as(bits: int, named: dict[str, float], throttled_s: float) -> None:
    """
    The power limit is told apart, and a slowdown is unnamed only where the hardware names no cause.

    Causes at the same time count once in throttled_s.
    """
    device = of([bits] * 10)

    assert causes(device) == named
    assert device.throttled_s == throttled_s
    assert device.duration_s == 10


def test_a_state_holds_until_the_next_tick() -> None:
    """However long that takes; the last one to the end of the window."""
    (device,) = seen(sampled([0, 1, 4, 5], [0, BRAKE, 0, SW_THERMAL]))

    assert causes(device) == {"hw_power_s": 3, "sw_thermal_s": 5}
    assert device.throttled_s == 8
    assert device.onsets_s == (1, 5)


@pytest.mark.parametrize(
    ("window_s", "throttled_s", "onsets_s"),
    [
        ((2.5, 9.0), 1.5, (2.5,)),
        ((0.0, 3.5), 1.5, (2.0,)),
        ((2.5, 3.5), 1.0, (2.5,)),
        ((4.0, 9.0), 0.0, ()),
        ((0.0, 2.0), 0.0, ()),
        ((2.0, 4.0), 2.0, (2.0,)),
    ],
)
def test_only_the_window_counts(window_s, throttled_s: float, onsets_s) -> None:
    """The tick before it tells of its first part. Ticks 2 and 3 of 10 are throttled."""
    device = of([0, 0, SLOW, SLOW, 0, 0, 0, 0, 0, 0], *window_s)

    assert device.throttled_s == throttled_s
    assert device.onsets_s == onsets_s
    assert device.duration_s == window_s[1] - window_s[0]


def test_onsets_are_from_off_to_on() -> None:
    """Another cause of the same slowdown is none. They count from the start of the run."""
    reasons = [0, SW_THERMAL, HW_THERMAL, 0, CAP, CAP | SLOW, 0]

    assert of(reasons, 0.0, 10.0, origin_s=-100.0).onsets_s == (101.0, 105.0)


def test_before_the_first_tick_nothing_is_known() -> None:
    """That time is not looked at, rather than free of throttling."""
    (device,) = seen(sampled([4, 6], [BRAKE, 0]))

    assert (device.duration_s, device.throttled_s, device.onsets_s) == (6, 2, (4,))


def test_devices_are_looked_at_apart() -> None:
    """In the meter's order."""
    hot, capped, fine = seen(sampled([0, 5], [0, HW_THERMAL], [CAP, CAP], [0, 0]))

    assert [device.uuid for device in (hot, capped, fine)] == ["GPU-0", "GPU-1", "GPU-2"]
    assert causes(hot) == {"hw_thermal_s": 5}
    assert causes(capped) == {"power_cap_s": 10}
    assert causes(fine) == {}


@pytest.mark.parametrize(
    ("times_s", "window_s"),
    [([], (0.0, 10.0)), ([10.0, 11.0], (0.0, 10.0)), ([0.0, 1.0, 2.0], (1.0, 1.0))],
)
def test_nothing_is_said_of_what_was_not_looked_at(times_s, window_s) -> None:
    """No tick, only later ones, a window without length."""
    assert seen(sampled(times_s, [SLOW] * len(times_s)), *window_s) == ()


def test_nothing_is_said_where_reasons_were_not_read() -> None:
    """A CPU has none."""
    without = attrs.evolve(sampled([0, 5], [SLOW, SLOW]), clock_event_reasons=None)

    assert seen(without) == ()


def test_flickering_does_not_outgrow_the_record() -> None:
    """The first onsets are kept, all of the time is counted."""
    device = of([SLOW, 0] * (2 * MAX_ONSETS), 0.0, 4.0 * MAX_ONSETS)

    assert device.onsets_s == tuple(range(0, 2 * MAX_ONSETS, 2))
    assert device.throttled_s == 2 * MAX_ONSETS


def test_ten_million_rows_take_seconds() -> None:
    """As many as a store keeps."""
    ticks, devices = 1_250_000, 8
    columns = np.tile(np.array([0, CAP, SLOW, SW_THERMAL | CAP], "u4"), (devices, ticks // 4))
    samples = sampled(np.arange(ticks) * 0.01, *columns)

    started = time.perf_counter()
    found = seen(samples, 0.0, ticks * 0.01)

    assert time.perf_counter() - started < 5
    assert [device.throttled_s for device in found] == [pytest.approx(ticks * 0.005)] * devices


STATES = st.lists(st.tuples(st.floats(0.001, 3.0), st.integers(0, 0x1FF)), min_size=1, max_size=30)


@given(STATES, st.floats(0.0, 40.0), st.floats(0.0, 40.0))
def test_times_agree_with_a_count_by_hand(states, one_s: float, other_s: float) -> None:
    """Tick by tick, for any reasons and any window."""
    times_s = np.cumsum([step_s for step_s, _ in states]).tolist()
    begin_s, end_s = sorted((one_s, other_s))
    stretches = [
        (max(begin_s, start_s), min(end_s, stop_s), bits)
        for start_s, stop_s, (_, bits) in zip(
            times_s, [*times_s[1:], max(end_s, times_s[-1])], states, strict=True
        )
        if min(end_s, stop_s) > max(begin_s, start_s)
    ]

    found = seen(sampled(times_s, [bits for _, bits in states]), begin_s, end_s)

    def by_hand(applies) -> float:
        return pytest.approx(sum(stop - start for start, stop, b in stretches if applies(b)))

    if not stretches:
        assert found == ()
        return
    (device,) = found
    assert device.throttled_s == by_hand(lambda bits: bits & 0xE8)
    assert device.sw_thermal_s == by_hand(lambda bits: bits & 0x20)
    assert device.hw_thermal_s == by_hand(lambda bits: bits & 0x40)
    assert device.hw_power_s == by_hand(lambda bits: bits & 0x80)
    assert device.hw_other_s == by_hand(lambda bits: bits & 0x8 and not bits & 0xC0)
    assert device.power_cap_s == by_hand(lambda bits: bits & 0x4)
    assert device.duration_s == by_hand(lambda bits: True)
    assert 0 <= device.throttled_s <= device.duration_s * (1 + 1e-9)
    assert all(begin_s <= onset_s < end_s for onset_s in device.onsets_s)
    assert bool(device.onsets_s) is (device.throttled_s > 0)


# What a record says of it


def device(uuid: str = "GPU-0", **fields) -> DeviceThrottle:
    return DeviceThrottle(uuid=uuid, duration_s=10.0, **fields)


WARM = TemperatureRange(uuid="GPU-0", low_c=40.0, high_c=71.0)
HOT = TemperatureRange(uuid="GPU-1", low_c=40.0, high_c=88.0)


def test_a_record_without_throttling() -> None:
    """The power limit alone is none."""
    info = throttle_info([device(power_cap_s=10.0), device("GPU-1")], [WARM, HOT])

    assert info == ThermalThrottleInfo(max_temperature_c=88.0)


def test_nothing_is_known_without_devices() -> None:
    """None, rather than not detected."""
    assert throttle_info([], [WARM]) is None


def test_temperatures_may_be_unknown() -> None:
    assert throttle_info([device()], []) == ThermalThrottleInfo()


@pytest.mark.parametrize(
    ("cause", "flags"),
    [
        ("sw_thermal_s", {"thermal", "sw_thermal"}),
        ("hw_thermal_s", {"thermal", "hw_thermal"}),
        ("hw_power_s", {"power", "hw_power"}),
        ("hw_other_s", set()),
    ],
)
def test_each_cause_has_its_flags(cause: str, flags: set[str]) -> None:
    """Any device will do."""
    info = throttle_info([device(), device("GPU-1", throttled_s=0.01, **{cause: 0.01})], [])

    assert info.detected
    assert {name for name in ("thermal", "power", *CAUSE_FLAGS) if getattr(info, name)} == flags


def test_the_longest_of_the_devices_and_every_onset() -> None:
    """Concurrent throttling is not added up; onsets are sorted, the same one stands once."""
    info = throttle_info(
        [
            device(throttled_s=2.0, sw_thermal_s=2.0, onsets_s=(5.0, 1.0)),
            device("GPU-1", throttled_s=3.0, hw_power_s=3.0, onsets_s=(1.0, 3.0)),
        ],
        [WARM],
    )

    assert info.throttle_duration_sec == 3.0
    assert info.throttle_timestamps == (1.0, 3.0, 5.0)
    assert info.max_temperature_c == 71.0
