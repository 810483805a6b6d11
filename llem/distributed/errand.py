"""
Calls into libraries that may block for good, made so that they can be waited for and given up.

A call that blocks in native code sees no signal and no deadline. It is made in a thread of its own,
while the main one waits in Python, follows orders, and gives up in time.
"""

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from llem.errors import IncompleteRunError

T = TypeVar("T")

LOOK_S = 0.05
"""Time between two looks at whether there is an order to follow. Unit: s."""


class GivenUpError(IncompleteRunError):
    """A call did not return in time. It may still be at it."""


def within(timeout_s: float, call: Callable[[], T], heed: Callable[[], None]) -> T:
    """
    What *call* returns, or raises.

    Args:
        timeout_s: How long it may take. Unit: s.
        call: What is called.
        heed: Called now and then; it raises where there is an order to end.

    Raises:
        GivenUpError: It has not returned within *timeout_s*.
    """
    back: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            back.put((call(), None))
        except BaseException as error:  # noqa: BLE001, it is raised where it is waited for
            back.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            value, error = back.get(timeout=max(min(LOOK_S, deadline - time.monotonic()), 0.0))
            break
        except queue.Empty:
            heed()
            if time.monotonic() >= deadline:
                raise GivenUpError(f"no answer within {timeout_s:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


class LocalStore:
    """What a store of torch.distributed is to a process that is alone, without torch."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        """Keep *value*."""
        self._values[key] = value

    def get(self, key: str) -> bytes:
        """What was kept."""
        return self._values[key].encode()

    def multi_get(self, keys: Iterable[str]) -> list[bytes]:
        """What was kept under each of *keys*."""
        return [self.get(key) for key in keys]

    def check(self, keys: Iterable[str]) -> bool:
        """Whether all of *keys* are there."""
        return all(key in self._values for key in keys)

    def add(self, key: str, number: int) -> int:
        """Add *number* to what is there, and return the sum."""
        self._values[key] = str(int(self._values.get(key, "0")) + number)
        return int(self._values[key])

    def append(self, key: str, value: str) -> None:
        """Put *value* behind what is there."""
        self._values[key] = self._values.get(key, "") + value


class PatientStore:
    """
    A store of torch.distributed that is given up where it does not answer.

    Args:
        store: The store.
        timeout_s: How long it may take for an answer. Unit: s.
        heed: As for `within`.

    Raises:
        GivenUpError: Each method, where the store does not answer, and ever after.
    """

    def __init__(self, store: Any, timeout_s: float, heed: Callable[[], None]) -> None:
        self._store, self._timeout_s, self._heed = store, timeout_s, heed
        self._is_gone = False

    def __getattr__(self, name: str) -> Any:
        # Of a store that was let go of nothing is asked.
        return functools.partial(self._call, getattr(self._store, name, None))

    def present(self, keys: Sequence[str]) -> list[str]:
        """Those of *keys* that are there: one question where all are, few where most are."""
        if not keys or self.check(keys):
            return [*keys]
        if len(keys) == 1:
            return []
        middle = len(keys) // 2
        return self.present(keys[:middle]) + self.present(keys[middle:])

    def let_go(self) -> None:
        """Hold the store no longer, and ask nothing of it any more."""
        self._store, self._is_gone = None, True

    def _call(self, method: Any, *given: Any) -> Any:
        if self._is_gone:
            raise GivenUpError("it did not answer before")
        try:
            return within(self._timeout_s, lambda: method(*given), self._heed)
        except GivenUpError:
            self._is_gone = True
            raise
