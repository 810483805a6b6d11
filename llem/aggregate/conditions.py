"""What the run met: throttling, and how warming up went."""

from collections.abc import Sequence

from llem.aggregate.unknown import highest
from llem.domain.energy import ThermalThrottleInfo
from llem.domain.latency import WarmupResult
from llem.domain.process import RawProcessResult


def thermal_throttle(processes: Sequence[RawProcessResult]) -> ThermalThrottleInfo | None:
    """Flags of any process, maxima of maxima, every moment once. None where nobody looked."""
    known = [p.thermal_throttle for p in processes if p.thermal_throttle is not None]
    if not known or len(processes) == 1:
        return known[0] if known else None
    return ThermalThrottleInfo(
        detected=any(info.detected for info in known),
        thermal=any(info.thermal for info in known),
        power=any(info.power for info in known),
        sw_thermal=any(info.sw_thermal for info in known),
        hw_thermal=any(info.hw_thermal for info in known),
        hw_power=any(info.hw_power for info in known),
        throttle_duration_sec=max(info.throttle_duration_sec for info in known),
        max_temperature_c=highest(info.max_temperature_c for info in known),
        throttle_timestamps=tuple(sorted({t for info in known for t in info.throttle_timestamps})),
    )


def warmup_result(processes: Sequence[RawProcessResult]) -> WarmupResult | None:
    """The warmup that settled least; None unless every process warmed up."""
    known = [p.warmup_result for p in processes if p.warmup_result is not None]
    if len(known) < len(processes):
        return None
    return max(known, key=lambda warmup: (not warmup.converged, warmup.final_cv or 0.0))
