"""What the run met: throttling, and how warming up went."""

from collections.abc import Sequence

from llem.aggregate.devices import gpus_of
from llem.aggregate.unknown import exact_sum, highest
from llem.aggregate.windows import Window, heaviest_apart, window_of
from llem.domain.energy import ThermalThrottleInfo
from llem.domain.latency import WarmupResult
from llem.domain.process import RawProcessResult


def thermal_throttle(processes: Sequence[RawProcessResult]) -> ThermalThrottleInfo | None:
    """
    Flags of any process, maxima of maxima, every moment once. None where nobody looked.

    Of processes that ran on one GPU after each other the durations add up.
    """
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
        throttle_duration_sec=_longest_s(processes),
        max_temperature_c=highest(info.max_temperature_c for info in known),
        throttle_timestamps=tuple(sorted({t for info in known for t in info.throttle_timestamps})),
    )


def _longest_s(processes: Sequence[RawProcessResult]) -> float:
    """Throttled time of the GPU, or the process with several of them, that had most. Unit: s."""
    by_gpus: dict[tuple[str | int, ...], list[tuple[Window, float]]] = {}
    for process in processes:
        if process.thermal_throttle is not None:
            # Which of several GPUs it was that was throttled is not known.
            gpus = gpus_of(process)
            place = gpus if len(gpus) == 1 else (process.process_index, *gpus)
            seen = window_of(process), process.thermal_throttle.throttle_duration_sec
            by_gpus.setdefault(place, []).append(seen)
    totals = []
    for of_one in by_gpus.values():
        windows, durations_s = zip(*of_one, strict=True)
        apart = heaviest_apart(windows, durations_s)
        totals.append(exact_sum((durations_s[i] for i in apart), "throttle_duration_sec"))
    return max(totals)


def warmup_result(processes: Sequence[RawProcessResult]) -> WarmupResult | None:
    """The warmup that settled least; None unless every process warmed up."""
    known = [p.warmup_result for p in processes if p.warmup_result is not None]
    if len(known) < len(processes):
        return None
    return max(known, key=lambda warmup: (not warmup.converged, warmup.final_cv or 0.0))
