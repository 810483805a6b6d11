"""Idle power, measured before the run the way the run is measured."""

from datetime import datetime

import attrs

from llem.measure.integrate import device_energies, mean_power_w
from llem.protocols import Clock, EnergyMeter


@attrs.frozen(kw_only=True)
class Baseline:
    """
    Idle power of a meter's devices.

    Attributes:
        power_w: Mean power of each device, by index. Unit: W. None: it gave no figure.
        timestamp: When it was measured: the start of the window.
        duration_s: Length of the window. Unit: s.
    """

    power_w: tuple[float | None, ...]
    timestamp: datetime
    duration_s: float

    @property
    def total_w(self) -> float | None:
        """Idle power of all devices. Unit: W. None: one of them has no figure, or there is none."""
        known = [power for power in self.power_w if power is not None]
        return sum(known) if known and len(known) == len(self.power_w) else None


def measure_baseline(meter: EnergyMeter, duration_s: float, clock: Clock) -> Baseline:
    """
    The idle power of *meter*'s devices over *duration_s* seconds of *clock*.

    The meter must not be sampling, and is not afterwards.

    Raises:
        MeterError: The meter cannot sample.
    """
    timestamp = clock.now()
    meter.start()
    try:
        begin = meter.mark()
        clock.sleep(duration_s)
        end = meter.mark()
    finally:
        samples = meter.stop()
    energies = device_energies(meter.devices, samples, begin, end)
    passed_s = end.time_s - begin.time_s
    return Baseline(
        power_w=mean_power_w(energies, passed_s), timestamp=timestamp, duration_s=passed_s
    )
