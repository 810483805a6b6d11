"""Idle power."""

from array import array
from datetime import UTC, datetime

import pytest

from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure import ReplayMeter, measure_baseline
from llem.protocols import Device, Samples

NAN = float("nan")


def idle(clock, *powers: float) -> ReplayMeter:
    """A meter whose devices draw *powers* for a minute."""
    devices = [
        Device(index=i, uuid=f"GPU-{i}", name="Idle", sensor=Sensor.REPLAY, period_s=1.0)
        for i in range(len(powers))
    ]
    columns = tuple(array("d", [power] * 60) for power in powers)
    return ReplayMeter(
        devices,
        Samples(times_s=array("d", range(60)), power_w=columns, temperature_c=columns),
        clock=clock,
    )


def test_power_of_each_device(clock) -> None:
    baseline = measure_baseline(idle(clock, 50, 30), 10, clock)

    assert baseline.power_w == pytest.approx((50, 30))
    assert baseline.total_w == pytest.approx(80)
    assert baseline.duration_s == 10
    assert baseline.timestamp == datetime(2026, 1, 1, 0, 1, 40, tzinfo=UTC)


def test_device_without_a_figure(clock) -> None:
    """A device that was not read has None, and so has the total."""
    baseline = measure_baseline(idle(clock, 50, NAN), 10, clock)

    assert baseline.power_w == (pytest.approx(50), None)
    assert baseline.total_w is None


def test_no_devices(clock) -> None:
    assert measure_baseline(idle(clock), 10, clock).total_w is None


def test_nothing_in_no_time(clock) -> None:
    """A window without length has no mean."""
    assert measure_baseline(idle(clock, 50), 0, clock).power_w == (None,)


def test_sampling_ends_with_the_wait(clock, monkeypatch) -> None:
    """Interrupted, the meter is stopped, and can start again."""
    meter = idle(clock, 50)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_baseline(meter, 10, clock)
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
