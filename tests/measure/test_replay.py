"""The replay meter."""

from array import array

import pytest

from llem.domain.energy import Sensor
from llem.errors import MeterError
from llem.measure import ReplayMeter, device_energies
from llem.protocols import Device, EnergyMeter, Samples

DEVICE = Device(index=0, uuid="GPU-0", name="Recorded", sensor=Sensor.REPLAY, period_s=1.0)


def ramp(seconds: int = 20) -> Samples:
    """One sample a second, of 10 W more each."""
    return Samples(
        times_s=array("d", range(seconds)),
        power_w=(array("d", [10 * t for t in range(seconds)]),),
        temperature_c=(array("d", [30] * seconds),),
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
    assert list(samples.power_w[0]) == [30, 40, 50, 60]
    assert list(samples.temperature_c[0]) == [30] * 4
    assert edge.counters_j == (None,)


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
