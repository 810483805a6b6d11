"""Warming up, and the methodology that follows from it."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.domain.config import WarmupConfig
from llem.domain.latency import WarmupResult
from llem.errors import BackendError, ResultValidationError
from llem.measure import derive_measurement_methodology, warm_up
from llem.measure.warmup import coefficient_of_variation

DETECT = WarmupConfig(convergence_detection=True)


def run(clock, latencies, config: WarmupConfig, *, wait: bool = False) -> WarmupResult:
    """Warm up with steps that take *latencies*."""
    return warm_up(iter(latencies).__next__, config, clock=clock, wait_thermal_floor=wait)


def test_fixed_count(clock) -> None:
    """Without detection n_warmup steps run, and nothing has converged, however even they are."""
    result = run(clock, itertools.repeat(0.5), WarmupConfig(n_warmup=7))

    assert result.latencies_ms == (500,) * 7
    assert (result.iterations_completed, result.converged, result.final_cv) == (7, False, 0)
    assert result.thermal_floor_wait_s == 0


def test_disabled(clock) -> None:
    """A warmup that is off runs nothing, waits for nothing, and has not converged."""
    config = WarmupConfig(enabled=False, convergence_detection=True)

    result = run(clock, [], config, wait=True)

    assert (result.iterations_completed, result.converged, result.final_cv) == (0, False, None)
    assert result.thermal_floor_wait_s == 0
    assert clock.monotonic() == 100


def test_converges(clock) -> None:
    """It ends as soon as the latest latencies are even."""
    result = run(clock, [9, 5, 3, 2, *itertools.repeat(1, 20)], DETECT)

    assert result.converged
    assert result.iterations_completed == 9
    assert result.final_cv == 0
    assert (result.target_cv, result.max_prompts) == (0.05, 20)


def test_least_number_of_prompts(clock) -> None:
    config = WarmupConfig(convergence_detection=True, window_size=2, min_prompts=6)
    assert run(clock, itertools.repeat(1), config).iterations_completed == 6


def test_never_settles(clock) -> None:
    """After max_prompts it ends, and has not converged."""
    result = run(clock, itertools.cycle([1, 2]), DETECT)

    assert (result.iterations_completed, result.converged) == (20, False)
    assert result.final_cv > 0.05


def test_threshold_itself_is_not_below(clock) -> None:
    config = WarmupConfig(convergence_detection=True, window_size=2, cv_threshold=0.5)
    assert not run(clock, itertools.cycle([1, 3]), config).converged


def test_window_larger_than_the_most_prompts(clock) -> None:
    config = WarmupConfig(convergence_detection=True, window_size=30)
    result = run(clock, itertools.repeat(1), config)
    assert (result.converged, result.final_cv) == (False, None)


@pytest.mark.parametrize("latency", [0.0, -1.0])
def test_latencies_without_a_mean(latency: float) -> None:
    assert coefficient_of_variation([latency] * 5, 5) is None
    assert coefficient_of_variation([math.inf] * 5, 5) is None


@given(st.lists(st.floats(0.001, 1000), min_size=2, max_size=20), st.floats(0.01, 100))
def test_coefficient_of_variation_has_no_unit(latencies: list[float], unit: float) -> None:
    """It is the same in s as in ms, and never negative."""
    assert coefficient_of_variation([9, 1, 3], 2) == 0.5
    size = len(latencies)
    variation = coefficient_of_variation(latencies, size)
    assert variation >= 0
    scaled = coefficient_of_variation([unit * latency for latency in latencies], size)
    assert scaled == pytest.approx(variation, abs=1e-9)


def test_thermal_floor(clock) -> None:
    """The wait follows the last step, where a device is metered."""
    result = run(clock, itertools.repeat(1), WarmupConfig(thermal_floor_seconds=30), wait=True)

    assert result.thermal_floor_wait_s == 30
    assert clock.monotonic() == 130


def test_failing_step(clock) -> None:
    """What a step raises is the caller's."""

    def step() -> float:
        raise BackendError("out of memory")

    with pytest.raises(BackendError, match="out of memory"):
        warm_up(step, DETECT, clock=clock, wait_thermal_floor=True)


@pytest.mark.parametrize("failing", range(1, 6))
def test_a_step_that_fails_late(clock, failing: int) -> None:
    """Nothing comes of it, and the device is not waited for."""
    done = itertools.count(1)

    def step() -> float:
        if next(done) == failing:
            raise KeyboardInterrupt
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        warm_up(step, WarmupConfig(n_warmup=5), clock=clock, wait_thermal_floor=True)
    assert clock.monotonic() == 100


@pytest.mark.parametrize("latency", [math.nan, math.inf, -0.1, 1e300, None, "1", True])
@pytest.mark.parametrize("config", [DETECT, WarmupConfig(n_warmup=20)])
def test_what_is_no_latency(clock, latency, config: WarmupConfig) -> None:
    """It is found at the step that returns it, before more of them run for nothing."""
    latencies = iter([1.0, latency, *itertools.repeat(1.0, 20)])

    with pytest.raises(ResultValidationError, match="latency_s of a warmup step must be"):
        run(clock, latencies, config)
    assert len(list(latencies)) == 20


def test_latencies_of_zero_never_settle(clock) -> None:
    """There is no mean to hold their spread against."""
    result = run(clock, itertools.repeat(0), DETECT)

    assert (result.converged, result.final_cv, result.iterations_completed) == (False, None, 20)


@given(
    st.lists(st.floats(0, 10), min_size=20, max_size=20),
    st.builds(
        WarmupConfig,
        enabled=st.booleans(),
        convergence_detection=st.booleans(),
        n_warmup=st.integers(0, 20),
        max_prompts=st.integers(1, 20),
        min_prompts=st.integers(0, 20),
        window_size=st.integers(2, 20),
        cv_threshold=st.floats(0, 1),
    ),
)
def test_converged_is_what_the_latencies_say(latencies: list[float], config) -> None:
    """Looked for, enough of them, and even: then and only then, and at the first chance."""
    result = run(None, latencies, config)
    count = result.iterations_completed

    def settled(count: int) -> bool:
        variation = coefficient_of_variation(latencies[:count], config.window_size)
        return (
            count >= max(config.min_prompts, config.window_size)
            and variation is not None
            and variation < config.cv_threshold
        )

    looked_for = config.enabled and config.convergence_detection
    most = config.max_prompts if looked_for else config.n_warmup if config.enabled else 0
    first = next((n for n in range(1, most + 1) if settled(n)), None) if looked_for else None
    assert result.converged is (first is not None)
    assert count == (most if first is None else first)
    assert result.latencies_ms == tuple(1000 * latency for latency in latencies[:count])


@pytest.mark.parametrize(
    ("converged", "window", "methodology"),
    [
        (None, None, "total"),
        (False, None, "total"),
        (True, None, "steady_state"),
        (True, (1.0, 2.0), "windowed"),
        (None, (1.0, 2.0), "windowed"),
    ],
)
def test_methodology(converged, window, methodology: str) -> None:
    warmup = None
    if converged is not None:
        warmup = WarmupResult(
            converged=converged, iterations_completed=5, target_cv=0.05, max_prompts=20
        )
    assert derive_measurement_methodology(warmup, window) == methodology
