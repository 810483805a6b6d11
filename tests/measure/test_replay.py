"""The replay meter."""

import numpy as np
import pytest

from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure import ReplayMeter, device_energies
from llem.protocols import Device, EnergyMeter, Samples

DEVICE = Device(index=0, uuid="GPU-0", name="Recorded", sensor=Sensor.REPLAY, period_s=1.0)


def ramp(seconds: int = 20) -> Samples:
    """One sample a second, of 10 W more each."""
    return Samples(
        times_s=range(seconds),
        power_w=[10 * t for t in range(seconds)],
        temperature_c=[30] * seconds,
        clock_event_reasons=range(seconds),
        stride=2,
        notes=("a note",),
    )


def test_plays_through_the_same_code(clock) -> None:
    """A window of the recording gives the energy that was recorded in it."""
    meter = ReplayMeter([DEVICE], ramp(), counters=lambda t: [5 * t * t], clock=clock)
    assert isinstance(meter, EnergyMeter)

    meter.start()
    clock.sleep(2.5)
    begin = meter.mark()
    clock.sleep(4)
    end = meter.mark()
    (energy,) = device_energies(meter.devices, meter.stop(), begin, end)
    meter.close()

    assert energy.integrated_j == pytest.approx(5 * (6.5**2 - 2.5**2))
    assert energy.counter_j == pytest.approx(energy.integrated_j)
    assert (energy.sensor, energy.sample_count) == (Sensor.REPLAY, 4)


def test_samples_on_both_sides(clock) -> None:
    """What is heard reaches one sample beyond the time between start and stop."""
    meter = ReplayMeter([DEVICE], ramp(), clock=clock)
    meter.start()
    clock.sleep(3.5)
    meter.stop()

    meter.start()
    edge = meter.mark()
    clock.sleep(2)
    samples = meter.stop()

    assert list(samples.times_s) == [103, 104, 105, 106]
    assert samples.power_w.tolist() == [[30], [40], [50], [60]]
    assert samples.temperature_c.tolist() == [[30]] * 4
    assert samples.clock_event_reasons.tolist() == [[3], [4], [5], [6]]
    assert edge.counters_j == (None,)


def test_all_else_is_as_recorded(clock) -> None:
    """What was not sampled stays unknown, and notes and stride are played too."""
    meter = ReplayMeter([DEVICE], ramp(), clock=clock)

    meter.start()
    samples = meter.stop()

    assert (samples.counter_j, samples.utilisation_pct, samples.memory_mb) == (None, None, None)
    assert (samples.stride, samples.notes) == (2, ("a note",))


def test_the_recording_stays_as_it_is(clock) -> None:
    """It may be played again, by the same meter and by another."""
    recording = ramp()
    for _ in range(2):
        meter = ReplayMeter([DEVICE], recording, clock=clock)
        meter.start()
        clock.sleep(3)
        meter.stop()

    np.testing.assert_array_equal(recording.times_s, range(20))


def test_nothing_lies_beyond_the_end(clock) -> None:
    """A recording that is over gives no energy."""
    meter = ReplayMeter([DEVICE], ramp(3), clock=clock)
    meter.start()
    clock.sleep(50)
    begin = meter.mark()
    clock.sleep(50)
    end = meter.mark()
    (energy,) = device_energies(meter.devices, meter.stop(), begin, end)

    assert energy.energy_j is None


def test_edge_before_the_start(clock) -> None:
    """Before the first start the recording stands at its begin."""
    meter = ReplayMeter([DEVICE], ramp(), counters=lambda t: [t + 7], clock=clock)
    assert meter.mark().counters_j == (7,)


def test_order_of_calls() -> None:
    meter = ReplayMeter([DEVICE], ramp())
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()
    meter.start()
    with pytest.raises(MeterError, match="already"):
        meter.start()
    assert meter.stop().times_s[0] > 0
