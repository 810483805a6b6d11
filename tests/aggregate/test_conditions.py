"""Throttling and warmup of several processes."""

from typing import Any

import pytest
from ranks import aggregate, process

from llem.domain.energy import ThermalThrottleInfo
from llem.domain.latency import WarmupResult

FLAGS = ("detected", "thermal", "power", "sw_thermal", "hw_thermal", "hw_power")


@pytest.mark.parametrize("flag", FLAGS)
def test_throttle_flags_are_ored(flag: str) -> None:
    """Each on its own."""
    run = [
        process(0, thermal_throttle=ThermalThrottleInfo()),
        process(1, thermal_throttle=ThermalThrottleInfo(**{flag: True})),
        process(2),
    ]

    together = aggregate(*run).thermal_throttle

    assert [name for name in FLAGS if getattr(together, name)] == [flag]


def test_throttle_maxima() -> None:
    """Longest, hottest, and every moment once."""
    run = [
        process(
            i,
            thermal_throttle=ThermalThrottleInfo(
                throttle_duration_sec=seconds, max_temperature_c=celsius, throttle_timestamps=at
            ),
        )
        for i, (seconds, celsius, at) in enumerate(
            [(3.0, None, (5.0, 1.0)), (1.0, 80.0, (1.0, 2.0)), (2.0, 70.0, ())]
        )
    ]

    together = aggregate(*run).thermal_throttle

    assert together.throttle_duration_sec == 3
    assert together.max_temperature_c == 80
    assert together.throttle_timestamps == (1.0, 2.0, 5.0)


def test_throttling_that_nobody_looked_for_is_unknown() -> None:
    """None is not False."""
    assert aggregate(process(0), process(1)).thermal_throttle is None


def warmup(**fields: Any) -> WarmupResult:
    own = {"converged": True, "iterations_completed": 5, "target_cv": 0.05, "max_prompts": 20}
    return WarmupResult(**(own | fields))


def test_the_warmup_that_settled_least_stands_for_all() -> None:
    """One that did not converge before one that did, then the larger variation."""
    settled, less = warmup(final_cv=0.01), warmup(final_cv=0.04)
    unsettled = warmup(converged=False, final_cv=0.02)

    def of(*warmups: WarmupResult | None) -> WarmupResult | None:
        run = (process(i, warmup_result=one) for i, one in enumerate(warmups))
        return aggregate(*run).warmup_result

    assert of(settled, less) == less
    assert of(less, unsettled, settled) == unsettled
    assert of(settled) == settled
    assert of(settled, None) is None
