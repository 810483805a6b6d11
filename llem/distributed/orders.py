"""Orders to end, from a person or from the launcher: each is followed once, and none is lost."""

import contextlib
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

STOPPED = "stopped by its launcher"
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

    def heed(self) -> None:
        """Raise what was ordered, where a library has swallowed it."""
        if self._given is not None:
            raise self._given

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self._given is None:
            self._given = (
                KeyboardInterrupt() if number == signal.SIGINT else StopOrderError(STOPPED)
            )
            raise self._given
