"""
Signs of life: a number that each rank counts up as long as it lives, and what others see of it.

A thread of its own counts, so that one who loads a model, runs prompts or waits is seen to live;
one that was killed, or whose machine is gone, is not. A hanging rank may go on counting: that one
is told by time alone. Beside it stands how often the rank got on with what it has to do for all.
"""

import contextlib
import math
import threading
import time
from typing import Any

from llem.distributed.errand import PatientStore

PERIOD_S = 1.0
"""Time between two signs. Unit: s."""

LOOK_S = 5.0
"""Time between two looks at the signs of those who are waited for. Unit: s."""

LOOKS = 4
"""Looks at them at least, before one gives up waiting."""

SILENT_S = 120.0
"""
Who gives no sign for so long is gone. Long, as a library may keep Python from running for a while.
Unit: s.
"""

END_S = 2.0
"""Longest time that the last sign is waited for. Unit: s."""


class Signs:
    """
    The signs of one rank, and those of the others.

    Args:
        bare: The store of torch.distributed on which they are left.
        store: The same, which is given up where it does not answer.
        rank: This rank.
        count: How many ranks there are.
    """

    def __init__(self, bare: Any, store: PatientStore, rank: int, count: int) -> None:
        self._bare: Any = bare
        self._store = store
        self._rank, self._count = rank, count
        self._steps = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._give, daemon=True)

    def begin(self) -> None:
        """Give signs from now on."""
        self._thread.start()

    def step(self) -> None:
        """Let the others see that this rank gets on: their time to wait for it begins anew."""
        self._steps += 1

    def end(self) -> None:
        """Give no more: one that is under way when Python ends would abort the process."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(END_S)
        self._bare = None

    def seen(self) -> dict[int, bytes]:
        """
        The last sign of each other rank that ever gave one.

        Raises:
            Exception: Whatever the store raises that cannot be reached.
        """
        ranks = {_key(rank): rank for rank in range(self._count) if rank != self._rank}
        there = self._store.present([*ranks])
        signs = self._store.multi_get(there) if there else []
        return {ranks[key]: sign for key, sign in zip(there, signs, strict=True)}

    def _give(self) -> None:
        number = 0
        with contextlib.suppress(Exception):
            while True:
                self._bare.set(_key(self._rank), f"{number} {self._steps}")
                number += 1
                if self._over.wait(PERIOD_S):
                    return


def _key(rank: int) -> str:
    return f"sign/{rank}"


class Vigil:
    """
    What is seen of the other ranks while one waits for them.

    Args:
        signs: What they give.
        within_s: How long one waits: in that time one looks several times. Unit: s.
    """

    def __init__(self, signs: Signs, within_s: float = math.inf) -> None:
        self._signs, self._every_s = signs, min(LOOK_S, within_s / LOOKS)
        self._steps: dict[int, tuple[bytes, float]] = {}
        self._first: dict[int, bytes] = {}
        self._last: dict[int, tuple[bytes, float]] = {}
        self._looked_s = time.monotonic()

    def look(self) -> None:
        """Look at their signs, unless that is not long ago."""
        now_s = time.monotonic()
        if now_s - self._looked_s < self._every_s:
            return
        self._looked_s = now_s
        for rank, sign in self._signs.seen().items():
            self._first.setdefault(rank, sign)
            if rank not in self._last or self._last[rank][0] != sign:
                self._last[rank] = sign, now_s
            _, _, steps = sign.partition(b" ")
            before, _ = self._steps.setdefault(rank, (steps, -math.inf))
            if steps != before:
                self._steps[rank] = steps, now_s

    def gone(self) -> set[int]:
        """Those of whom there were signs, and have been none for `SILENT_S`."""
        return {
            rank
            for rank, (_, since_s) in self._last.items()
            if self._looked_s - since_s >= SILENT_S
        }

    def stepped_s(self, rank: int) -> float:
        """When *rank* was last seen to get on, by a monotonic clock; long ago where never."""
        return self._steps.get(rank, (b"", -math.inf))[1]

    def living(self) -> set[int]:
        """Those that have given a sign since the first look."""
        return {rank for rank, (sign, _) in self._last.items() if sign != self._first[rank]}
