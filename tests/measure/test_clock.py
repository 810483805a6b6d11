"""The system's clock."""

import time
from datetime import UTC, datetime

from llem.measure import SystemClock
from llem.protocols import Clock


def test_tells_the_time() -> None:
    """Sleeping moves the monotonic time, and the time of day is an aware one in UTC."""
    clock = SystemClock()
    assert isinstance(clock, Clock)

    before = clock.monotonic()
    clock.sleep(0.02)
    clock.sleep(-1)

    assert before + 0.02 <= clock.monotonic() <= time.monotonic()
    assert clock.now().tzinfo is UTC
    assert abs((clock.now() - datetime.now(UTC)).total_seconds()) < 1
