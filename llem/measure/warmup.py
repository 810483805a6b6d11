"""Running before the measured window until latencies settle, and what that makes of the window."""

import math
import statistics
from collections.abc import Callable, Sequence

from llem.domain.config import WarmupConfig
from llem.domain.fields import check_for
from llem.domain.latency import WarmupResult
from llem.domain.result import Methodology
from llem.protocols import MAX_LATENCY_S, Clock

_CHECK_LATENCY = check_for(float, {"minimum": 0, "maximum": MAX_LATENCY_S})


def warm_up(
    step: Callable[[], float], config: WarmupConfig, *, clock: Clock, wait_thermal_floor: bool
) -> WarmupResult:
    """
    Run *step* as *config* says, then let the device cool to its floor.

    Without convergence detection `n_warmup` steps run, and nothing has converged. With it they run
    until the coefficient of variation of the last `window_size` latencies is below `cv_threshold`,
    at least `min_prompts` and at most `max_prompts` of them. What *step* raises is not caught.

    Args:
        step: Runs one request and returns its latency. Unit: s.
        config: How to warm up.
        clock: What the thermal floor is waited by.
        wait_thermal_floor: Whether a device is metered, so that its temperature matters.

    Raises:
        ResultValidationError: What *step* returns is no latency. It is found at once.
    """
    latencies_s: list[float] = []
    converged = False
    for _ in range(_limit(config)):
        latencies_s.append(_CHECK_LATENCY(step(), "latency_s of a warmup step"))
        if config.convergence_detection:
            converged = _has_settled(latencies_s, config)
        if converged:
            break
    return WarmupResult(
        converged=converged,
        final_cv=coefficient_of_variation(latencies_s, config.window_size),
        iterations_completed=len(latencies_s),
        target_cv=config.cv_threshold,
        max_prompts=config.max_prompts,
        latencies_ms=tuple(1000 * latency for latency in latencies_s),
        thermal_floor_wait_s=_wait(config, clock) if config.enabled and wait_thermal_floor else 0.0,
    )


def coefficient_of_variation(latencies: Sequence[float], window_size: int) -> float | None:
    """
    Population standard deviation over mean of the last *window_size* latencies.

    None: there are fewer, or they have no mean to divide by.

    >>> coefficient_of_variation([9.0, 1.0, 3.0], window_size=2)
    0.5
    """
    window = latencies[-window_size:]
    if len(window) < window_size:
        return None
    mean = statistics.fmean(window)
    if not (math.isfinite(mean) and mean > 0):
        return None
    return statistics.pstdev(window, mean) / mean


def derive_measurement_methodology(
    warmup: WarmupResult | None, window: tuple[float, float] | None
) -> Methodology:
    """
    What span the headline figures cover.

    windowed where the caller gives the *window*, steady_state after a *warmup* that converged, and
    total otherwise: without a warmup, with a fixed one, and with one that never settled.

    Args:
        warmup: What warming up came to. None: there was no warmup.
        window: Start and end as the caller gave them. Unit: s from the experiment's start.
    """
    if window is not None:
        return "windowed"
    if warmup is not None and warmup.converged:
        return "steady_state"
    return "total"


def _limit(config: WarmupConfig) -> int:
    if not config.enabled:
        return 0
    return config.max_prompts if config.convergence_detection else config.n_warmup


def _has_settled(latencies: Sequence[float], config: WarmupConfig) -> bool:
    if len(latencies) < config.min_prompts:
        return False
    variation = coefficient_of_variation(latencies, config.window_size)
    return variation is not None and variation < config.cv_threshold


def _wait(config: WarmupConfig, clock: Clock) -> float:
    before = clock.monotonic()
    clock.sleep(config.thermal_floor_seconds)
    return clock.monotonic() - before
