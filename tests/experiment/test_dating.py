"""Monotonic times as dates, by the clock of the first process."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.experiment.dating import Dates
from llem.protocols import Clock, ClockComparison

NOON = datetime(2026, 3, 13, 12, tzinfo=UTC)


@attrs.define
class Still(Clock):
    """Stands still."""

    wall: datetime
    time_s: float

    def monotonic(self) -> float:
        return self.time_s

    def now(self) -> datetime:
        return self.wall

    def sleep(self, seconds: float, /) -> None:
        raise NotImplementedError


class Comparing:
    """Gives one comparison after the other."""

    def __init__(self, comparisons: Sequence[ClockComparison]) -> None:
        self._comparisons = iter(comparisons)

    def compare_clocks(self, _clock: Clock) -> ClockComparison:
        return next(self._comparisons)


def compared(*comparisons: ClockComparison, clock: Clock | None = None, **how: Any) -> Dates:
    dates, peers = Dates(clock or Still(NOON, 100.0)), Comparing(comparisons)
    for _ in comparisons:
        dates.compare(peers, **how)  # type: ignore[arg-type]
    return dates


def beside(offset_s: float, error_s: float | None, anchor_s: float = 7.0) -> ClockComparison:
    return ClockComparison(offset_s=offset_s, error_s=error_s, anchor=(NOON, anchor_s))


def test_alone_a_process_goes_by_its_own_clock() -> None:
    """By one look at it, so that setting it meanwhile shifts nothing."""
    clock = Still(NOON, 100.0)
    dates = Dates(clock)
    clock.wall += timedelta(hours=1)

    assert dates.at(103.5) == NOON + timedelta(seconds=3.5)
    assert dates.ahead_s == 0


def test_one_clock_for_all_has_one_anchor() -> None:
    """That of the first process, with no error."""
    dates = compared(beside(0.0, None, anchor_s=98.0))

    assert dates.at(100.0) == NOON + timedelta(seconds=2)
    assert dates.beside.error_s is None


def test_a_clock_that_drifts_is_taken_in_the_middle() -> None:
    """Of both ends of the window, with half of what it drifted as a further error."""
    found = compared(beside(10.0, 0.002), beside(10.5, 0.001)).beside

    assert found.offset_s == 10.25
    assert found.error_s == pytest.approx(0.002 + 0.25)
    assert compared(beside(10.5, 0.001), beside(10.0, 0.002)).beside.error_s == found.error_s


def test_dates_are_those_of_the_first_process() -> None:
    """Its clock is 10 s ahead, and at 7 s of it it was noon."""
    dates = compared(beside(10.0, 0.0))

    assert dates.at(-3.0) == NOON
    assert dates.at(0.0) == NOON + timedelta(seconds=3)


@given(st.floats(-1e5, 1e5), st.floats(-1e6, 1e6))
def test_how_far_the_wall_clock_is_ahead(wrong_by_s: float, offset_s: float) -> None:
    """Whatever the monotonic clocks of both machines show."""
    clock = Still(NOON + timedelta(seconds=wrong_by_s), 100.0)

    # At the moment when this one shows 100 s, that of the first process does 100 s + offset.
    dates = compared(beside(offset_s, 0.0, anchor_s=100.0 + offset_s), clock=clock)

    assert dates.ahead_s == pytest.approx(wrong_by_s, abs=2e-6)


def test_a_window_that_begins_anew_forgets_earlier_comparisons() -> None:
    dates = compared(beside(1.0, 0.0), beside(3.0, 0.0), anew=True)

    assert dates.beside == beside(3.0, 0.0)
