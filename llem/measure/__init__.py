"""
Measuring: meters, what they sample, and the energy and the evidence that come of it.

Libraries of the hardware load where a meter is opened, not here.
"""

from llem.measure.baseline import Baseline, measure_baseline
from llem.measure.choose import open_meter
from llem.measure.clock import SystemClock
from llem.measure.environment import Capability, capabilities, snapshot
from llem.measure.integrate import device_energies, mean_power_w
from llem.measure.nvml import NvmlMeter
from llem.measure.rapl import RaplMeter
from llem.measure.replay import ReplayMeter
from llem.measure.series import to_table
from llem.measure.warmup import derive_measurement_methodology, warm_up

__all__ = [
    "Baseline",
    "Capability",
    "NvmlMeter",
    "RaplMeter",
    "ReplayMeter",
    "SystemClock",
    "capabilities",
    "derive_measurement_methodology",
    "device_energies",
    "mean_power_w",
    "measure_baseline",
    "open_meter",
    "snapshot",
    "to_table",
    "warm_up",
]
