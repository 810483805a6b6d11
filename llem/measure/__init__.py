"""
Measuring: meters, what they sample, and the energy and the evidence that come of it.

Each name loads its module when it is first used, as measuring needs numpy. Libraries of the
hardware load where a meter is opened.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llem.measure.annotations import (
        Timing,
        annotate,
        request_spans,
        requests_of,
        stride,
        timings,
    )
    from llem.measure.baseline import BaselineCache, IdlePower, default_cache_folder, idle_power
    from llem.measure.checked import (
        checked_devices,
        checked_mark,
        checked_samples,
        plain_text,
    )
    from llem.measure.choose import open_meter
    from llem.measure.clock import SystemClock
    from llem.measure.environment import Capability, capabilities, snapshot
    from llem.measure.evidence import gather_evidence
    from llem.measure.integrate import device_energies, mean_power_w
    from llem.measure.machine import clock_identity, identity
    from llem.measure.nvml import NvmlMeter
    from llem.measure.phases import phase_energies
    from llem.measure.processes import context_held, foreign, gpu_processes, own_processes
    from llem.measure.rapl import RaplMeter
    from llem.measure.replay import ReplayMeter
    from llem.measure.series import by_device, to_table
    from llem.measure.throttle import throttle_info
    from llem.measure.warmup import derive_measurement_methodology, warm_up
    from llem.measure.zeus import ZeusMeter

_HOMES = {
    "llem.measure.annotations": [
        "Timing",
        "annotate",
        "request_spans",
        "requests_of",
        "stride",
        "timings",
    ],
    "llem.measure.baseline": ["BaselineCache", "IdlePower", "default_cache_folder", "idle_power"],
    "llem.measure.checked": [
        "checked_devices",
        "checked_mark",
        "checked_samples",
        "plain_text",
    ],
    "llem.measure.choose": ["open_meter"],
    "llem.measure.clock": ["SystemClock"],
    "llem.measure.environment": ["Capability", "capabilities", "snapshot"],
    "llem.measure.evidence": ["gather_evidence"],
    "llem.measure.integrate": ["device_energies", "mean_power_w"],
    "llem.measure.machine": ["clock_identity", "identity"],
    "llem.measure.nvml": ["NvmlMeter"],
    "llem.measure.phases": ["phase_energies"],
    "llem.measure.processes": ["context_held", "foreign", "gpu_processes", "own_processes"],
    "llem.measure.rapl": ["RaplMeter"],
    "llem.measure.replay": ["ReplayMeter"],
    "llem.measure.series": ["by_device", "to_table"],
    "llem.measure.throttle": ["throttle_info"],
    "llem.measure.warmup": ["derive_measurement_methodology", "warm_up"],
    "llem.measure.zeus": ["ZeusMeter"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BaselineCache",
    "Capability",
    "IdlePower",
    "NvmlMeter",
    "RaplMeter",
    "ReplayMeter",
    "SystemClock",
    "Timing",
    "ZeusMeter",
    "annotate",
    "by_device",
    "capabilities",
    "checked_devices",
    "checked_mark",
    "checked_samples",
    "clock_identity",
    "context_held",
    "default_cache_folder",
    "derive_measurement_methodology",
    "device_energies",
    "foreign",
    "gather_evidence",
    "gpu_processes",
    "identity",
    "idle_power",
    "mean_power_w",
    "open_meter",
    "own_processes",
    "phase_energies",
    "plain_text",
    "request_spans",
    "requests_of",
    "snapshot",
    "stride",
    "throttle_info",
    "timings",
    "to_table",
    "warm_up",
]


if not TYPE_CHECKING:  # or every wrong name would be a right one to a type checker

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module 'llem.measure' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME_OF[name]), name)
