"""The system's clock."""

import time
from datetime import UTC, datetime

from llem.protocols import Clock


class SystemClock(Clock):
    """The time as the operating system tells it."""

    def monotonic(self) -> float:
        """Monotonic time, of the same origin as ``time.monotonic``. Unit: s."""
        return time.monotonic()

    def now(self) -> datetime:
        """The time as an aware datetime in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float, /) -> None:
        """Let *seconds* pass. None pass where *seconds* is negative."""
        time.sleep(max(seconds, 0.0))
