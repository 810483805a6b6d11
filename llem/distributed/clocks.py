"""
The monotonic clocks of machines beside each other, compared by messages to and fro.

Of a message that leaves at *sent*, is answered at *answered* by the other clock, and comes back at
*back*, the middle of *sent* and *back* is the moment of the answer, give or take half of the time
that it was under way: the offset and its bound of NTP (RFC 5905, section 8). The quickest of many
has the least bound.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

ROUNDS = 32
"""Messages of which the quickest counts."""

Exchange = tuple[float, float, float]
"""When a message was sent, when it was answered by the other clock, and when that was back."""


def offset(exchanges: Iterable[Exchange]) -> tuple[float, float]:
    """
    The other clock's time less one's own at the same moment, and a bound on its error. Unit: s.

    >>> offset([(10.0, 110.5, 11.0), (20.0, 120.05, 20.1)])
    (100.0, 0.05)
    """
    sent, answered, back = min(exchanges, key=lambda one: one[2] - one[0])
    return round(answered - (sent + back) / 2, 9), round((back - sent) / 2, 9)


class Line(Protocol):
    """What passes numbers to another process and back."""

    def send(self, number: float, /) -> None:
        """Send *number*."""

    def receive(self) -> float:
        """Wait for a number."""
        ...


def ask(line: Line, now: Callable[[], float]) -> tuple[float, float]:
    """
    How far the clock of who answers is ahead, and a bound on the error of that. Unit: s.

    Args:
        line: Leads to who answers.
        now: The time. Unit: s.
    """

    def once() -> Exchange:
        sent = now()
        line.send(sent)
        answered = line.receive()
        return sent, answered, now()

    return offset([once() for _ in range(ROUNDS)])


def answer(line: Line, now: Callable[[], float]) -> None:
    """Answer each of the messages of `ask` with the time."""
    for _ in range(ROUNDS):
        line.receive()
        line.send(now())
