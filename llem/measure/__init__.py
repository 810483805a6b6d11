"""
Measuring: meters, what they sample, and the energy and the evidence that come of it.

Libraries of the hardware load where a meter is opened, not here.
"""

from llem.measure.baseline import BaselineCache, IdlePower, default_cache_folder, idle_power
from llem.measure.choose import open_meter
from llem.measure.clock import SystemClock
from llem.measure.environment import Capability, capabilities, snapshot
from llem.measure.evidence import gather_evidence
from llem.measure.integrate import device_energies, mean_power_w
from llem.measure.nvml import NvmlMeter
from llem.measure.processes import context_held, foreign, gpu_processes, own_processes
from llem.measure.rapl import RaplMeter
from llem.measure.replay import ReplayMeter
from llem.measure.series import from_table, to_table
from llem.measure.throttle import throttle_info
from llem.measure.warmup import derive_measurement_methodology, warm_up
from llem.measure.zeus import ZeusMeter

__all__ = [
    "BaselineCache",
    "Capability",
    "IdlePower",
    "NvmlMeter",
    "RaplMeter",
    "ReplayMeter",
    "SystemClock",
    "ZeusMeter",
    "capabilities",
    "context_held",
    "default_cache_folder",
    "derive_measurement_methodology",
    "device_energies",
    "foreign",
    "from_table",
    "gather_evidence",
    "gpu_processes",
    "idle_power",
    "mean_power_w",
    "open_meter",
    "own_processes",
    "snapshot",
    "throttle_info",
    "to_table",
    "warm_up",
]
