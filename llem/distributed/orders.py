"""Orders to end, from a person or from the launcher: each is followed once, and none is lost."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

STOPPED = "stopped by the launcher"
"""What a rank says that was told to end, which is hardly ever where the fault lies."""


class StopOrderError(BaseException):
    """The launcher told this process to end: SIGTERM. No `Exception`, so that none swallows it."""


class Orders:
    """
    While entered, Ctrl-C and SIGTERM raise once, where the program is; what comes later waits.

    A launcher that ends its processes does so with many signals, and one that came while the first
    is being followed would cut that short.
    """

    def __init__(self) -> None:
        self._given: BaseException | None = None
        self._is_followed = False
        self._waiting = 0
        self._pid = os.getpid()
        self._restore: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        defaults = {
            signal.SIGINT: signal.default_int_handler,
            signal.SIGTERM: signal.SIG_DFL,
        }
        for number, default in defaults.items():
            if signal.getsignal(number) is default:  # else somebody else decides about it
                self._restore[number] = signal.signal(number, self._note)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._restore.items():
            with contextlib.suppress(ValueError):
                signal.signal(number, handler)
        self._restore.clear()

    @property
    def is_given(self) -> bool:
        """Whether there was an order, followed or not."""
        return self._given is not None

    def hold(self) -> None:
        """Raise nothing any more: what is left to do is short, and is done."""
        self._waiting += 1
        self._is_followed = True

    def heed(self) -> None:
        """Raise what was ordered, where a library has swallowed it."""
        if self._given is not None and not self._waiting:
            raise self._given

    def follow(self) -> None:
        """Raise what was ordered, where it was not raised yet because it had to wait."""
        if self._given is not None and not self._is_followed:
            self._is_followed = True
            raise self._given

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Have orders wait for the end of the block, or for `follow`."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
        self.follow()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A child that was forked since is none of the ranks.
            signal.signal(number, self._restore.get(signal.Signals(number), signal.SIG_DFL))
            os.kill(os.getpid(), number)
            return
        if self._given is None:
            self._given = (
                KeyboardInterrupt() if number == signal.SIGINT else StopOrderError(STOPPED)
            )
            if not self._waiting:
                self.follow()
