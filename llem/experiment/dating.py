"""Monotonic times as dates, by one clock for all processes of a run."""

from datetime import datetime, timedelta

from llem.protocols import Clock, ClockComparison, Peers


class Dates:
    """
    Dates of monotonic times.

    One pair of times dates everything, so that a clock that is set meanwhile shifts nothing. Beside
    peers it is that of the first process.

    Args:
        clock: What tells the time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._compared: list[ClockComparison] = []
        self.now, self.now_s = clock.now(), clock.monotonic()

    def compare(self, peers: Peers, *, anew: bool = False) -> None:
        """Compare the clock with that of the first process. *anew*: forget earlier comparisons."""
        if anew:
            self._compared.clear()
        self._compared.append(peers.compare_clocks(self._clock))

    def at(self, time_s: float) -> datetime:
        """The monotonic *time_s* as a date, by the clock of the first process."""
        beside = self.beside
        moment, anchor_s = beside.anchor
        return moment + timedelta(seconds=time_s + beside.offset_s - anchor_s)

    @property
    def ahead_s(self) -> float:
        """The wall clock of this process less that of the first one. Unit: s."""
        return (self.now - self.at(self.now_s)).total_seconds()

    @property
    def beside(self) -> ClockComparison:
        """How the clock goes beside that of the first process, over all comparisons."""
        if not self._compared:
            return ClockComparison(anchor=(self.now, self.now_s))
        first, last = self._compared[0], self._compared[-1]
        if first.error_s is None or last.error_s is None:
            return first
        drift_s = abs(last.offset_s - first.offset_s) / 2
        return ClockComparison(
            offset_s=(first.offset_s + last.offset_s) / 2,
            error_s=max(first.error_s, last.error_s) + drift_s,
            anchor=first.anchor,
        )
