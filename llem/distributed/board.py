"""
The board on which the ranks of a run leave word: a torch.distributed store.

Every wait on it ends: when what is waited for is there, when a rank has said that it failed, or
when its time is over. Then it is known, and told, who did not come.
"""

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import attrs

from llem.completeness import named
from llem.distributed.errand import PatientStore
from llem.distributed.orders import STOPPED
from llem.errors import ConfigError, IncompleteRunError, LlemError

LEAST_WAIT_S, MOST_WAIT_S = 0.001, 0.1
"""Time between two looks at the board: the longer a rank has waited, the longer. Unit: s."""

STAGES = {
    "join": "the start of the run",
    "agree": "comparing configurations",
    "introduce": "naming its devices",
    "idle": "the idle devices",
    "begin": "the begin of the measured window",
    "clock": "comparing clocks",
    "clocks": "comparing clocks",
    "end": "the end of the measured window",
    "left": "leaving what it measured",
    "bring": "sending what it measured",
    "brought": "sending what it measured",
    "over": "the end of measuring",
    "kept": "the end of the run",
}
"""What a person is told of each stage."""

MOMENT_S = 0.5
"""Time that further ranks have to say what happened to them once one has. Unit: s."""

FAREWELL_S = 10.0
"""How long rank 0 waits for the others before it takes the board along. Unit: s."""

ANSWER_S = 30.0
"""Longest time that the store may take for an answer. Unit: s."""

GRACE_S = 3.0
"""Time that ranks have to say what happened to them, once one has failed. Unit: s."""


@attrs.frozen(kw_only=True)
class _Word:
    """
    What a rank says at its end, where that is not the end of the run.

    Attributes:
        rank: The rank.
        text: Why it ended.
        is_verdict: Whether it tells of others, whom it has waited for.
        blamed: Whose fault it was. Empty: it was told to end.
    """

    rank: int
    text: str
    is_verdict: bool
    blamed: list[int]


class Board:
    """
    What the ranks tell each other.

    Args:
        store: A store of torch.distributed, no key of which is another run's.
        rank: This rank.
        count: How many there are.
        timeout_s: How long ranks wait for each other. Unit: s.
        heed: Called while something is waited for; it raises where there is an order to end.
    """

    def __init__(
        self, store: Any, rank: int, count: int, timeout_s: float, heed: Callable[[], None]
    ) -> None:
        self.rank, self.count, self.timeout_s = rank, count, timeout_s
        self._bare, self._heed = store, heed
        self._store = PatientStore(store, min(timeout_s, ANSWER_S), heed)
        self._round = 0
        self._failed = False
        self._gave_up = False
        self._blamed: set[int] = set()

    def is_to_tell(self) -> bool:
        """
        Whether a person is to hear of the failure from this rank.

        Rank 0 speaks for all. Another one tells of its own fault, unless rank 0 has the same; and
        all do where rank 0 is at fault itself.
        """
        if self.rank == 0 or 0 in self._blamed:
            return True
        return self.rank in self._blamed and not self._has_rank_0_the_same()

    def _has_rank_0_the_same(self) -> bool:
        deadline = time.monotonic() + MOMENT_S
        while time.monotonic() < deadline:
            words = {word.rank: word.text for word in self._words()}
            if 0 in words:
                return words[0] == words.get(self.rank)
            time.sleep(0.02)
        return False

    def under(self, name: str) -> Any:
        """A store for what is no matter of the board, its keys under *name*."""
        from torch.distributed.distributed_c10d import PrefixStore

        return PrefixStore(name, self._bare)

    def exchange(self, stage: str, value: Any, *, at_least_s: float = 0.0) -> tuple[Any, ...]:
        """
        Return once every rank is at *stage*, with the value of each.

        Args:
            stage: The stage.
            value: What JSON can hold.
            at_least_s: How long to wait, where that is longer than ranks usually do. Unit: s.

        Raises:
            IncompleteRunError: One failed, or does not come in time; the text names it.
        """
        self._round += 1
        place = f"{self._round}/{stage}"
        with self._reached():
            self._store.set(f"at/{self.rank}", json.dumps([self._round, stage]))
            self._store.set(f"{place}/{self.rank}", json.dumps(value))
            if self._store.add(f"{place}/arrived", 1) == self.count:
                self._store.set(f"{place}/all", "1")
        timeout_s = max(self.timeout_s, at_least_s)
        self._await(f"{place}/all", timeout_s, lambda: self._who_lacks(place, stage, timeout_s))
        with self._reached():
            values = self._store.multi_get([f"{place}/{rank}" for rank in range(self.count)])
        return tuple(json.loads(one) for one in values)

    def tell(self, key: str, value: str = "1") -> None:
        """Leave *value* under *key*."""
        with self._reached():
            self._store.set(key, value)

    def wait_for(self, key: str, whom: int, what: str) -> bytes:
        """
        What rank *whom* leaves under *key*.

        Raises:
            IncompleteRunError: It does not, in time, or one failed. *what* says what it did not do.
        """
        timeout_s = self.timeout_s
        self._await(key, timeout_s, lambda: f"rank {whom} did not {what} within {timeout_s:g} s")
        with self._reached():
            value: bytes = self._store.get(key)
        return value

    def fail(self, reason: str) -> None:
        """
        Tell all that this rank has failed. Only the first reason is told.

        A rank that gave up waiting has no fault of its own: it tells whom it waited for.
        """
        if self._failed:
            return
        self._failed = True
        if not self._gave_up and reason != STOPPED:
            self._blamed = {self.rank}
        word = _Word(
            rank=self.rank,
            text=reason,
            is_verdict=self._gave_up,
            blamed=[] if reason == STOPPED else sorted(self._blamed),
        )
        with contextlib.suppress(Exception):
            number = self._store.add("failures", 1)
            self._store.set(f"failure/{number}", json.dumps(attrs.asdict(word)))

    def report(self) -> str:
        """
        What has become of the ranks, now that one has failed: waits for those that can still say.

        What ranks say of themselves comes before what others say of them, and silence after both.
        """
        with contextlib.suppress(Exception):
            self._store.set(f"alive/{self.rank}", "1")
        deadline = time.monotonic() + GRACE_S
        words, silent = self._words(), self._silent()
        while silent and time.monotonic() < deadline:
            if any(word.blamed for word in words):
                deadline = min(deadline, time.monotonic() + MOMENT_S)
            time.sleep(0.05)
            words, silent = self._words(), self._silent()
        text, blamed = self._judge(words, silent)
        self._blamed = {*blamed}
        return text

    def _silent(self) -> list[int]:
        """The ranks that have not said anything since one has failed."""
        spoken = {word.rank for word in self._words()} | {self.rank}
        with contextlib.suppress(Exception):
            return [
                rank
                for rank in range(self.count)
                if rank not in spoken and not self._store.check([f"alive/{rank}"])
            ]
        return []

    def _judge(
        self, words: "Sequence[_Word]", silent: Sequence[int]
    ) -> tuple[str, Collection[int]]:
        """What went wrong, and whose fault it is."""
        faults = [word for word in words if word.blamed and not word.is_verdict]
        verdicts = [word for word in words if word.blamed and word.is_verdict]
        if faults:
            lines = {f"rank {word.rank}: {word.text}": word.rank for word in faults}
            return "; ".join(sorted(lines)), {word.rank for word in faults}
        if verdicts:
            return verdicts[0].text, verdicts[0].blamed
        if silent:
            return self._silence(silent), silent
        stopped = [word.rank for word in words] or [self.rank]
        return f"{named(stopped)}: {STOPPED}", ()

    def lost(self, why: str) -> IncompleteRunError:
        """The error of a rank that lost another one: what that says of its end, or else *why*."""
        deadline = time.monotonic() + MOMENT_S
        while time.monotonic() < deadline:
            if any(word.blamed for word in self._words()):
                return self._giving_up(self.report())
            time.sleep(0.02)
        return self._giving_up(why)

    def claim(self) -> None:
        """
        Take this rank.

        Raises:
            ConfigError: Another process has it.
        """
        with self._reached():
            claims = self._store.add(f"claim/{self.rank}", 1)
        if claims > 1:
            raise ConfigError(
                f"{claims} processes were started as rank {self.rank}: give each a RANK of its own"
            )

    def part(self) -> None:
        """
        Leave the board. Rank 0, which may be its host, goes last.

        Whatever goes wrong with that is no matter any more.
        """
        with contextlib.suppress(Exception):
            if self.rank:
                self._store.set(f"bye/{self.rank}", "1")
                return
            byes = [f"bye/{rank}" for rank in range(1, self.count)]
            deadline = time.monotonic() + FAREWELL_S
            while byes and not self._store.check(byes) and time.monotonic() < deadline:
                time.sleep(0.01)

    def _silence(self, silent: Sequence[int]) -> str:
        where = "" if len(silent) > 1 else f", last at {self._last_stage(silent[0])}"
        return (
            f"{named(silent)}: no sign of life{where}: killed, out of memory, or hanging; see its "
            "own output"
        )

    def _last_stage(self, rank: int) -> str:
        with contextlib.suppress(Exception):
            if self._store.check([f"at/{rank}"]):
                return _in_words(json.loads(self._store.get(f"at/{rank}"))[1])
        return "being launched"

    def _words(self) -> "list[_Word]":
        """What each rank that has failed says, in the order in which they did."""
        words: dict[int, _Word] = {}
        with contextlib.suppress(Exception):
            number = 1
            while self._store.check([f"failure/{number}"]):
                word = _Word(**json.loads(self._store.get(f"failure/{number}")))
                words.setdefault(word.rank, word)
                number += 1
        return [*words.values()]

    def _await(self, key: str, timeout_s: float, late: Callable[[], str]) -> None:
        # The store's own wait would print a warning for each time that it ends without the key.
        began = time.monotonic()
        while not self._is_told(key):
            waited_s = time.monotonic() - began
            if self._words():
                raise self._giving_up(self.report()) from None
            if waited_s >= timeout_s:
                raise self._giving_up(late()) from None
            self._heed()
            time.sleep(min(LEAST_WAIT_S + waited_s / 10, MOST_WAIT_S))

    def _is_told(self, key: str) -> bool:
        with self._reached():
            told: bool = self._store.check([key])
        return told

    def _giving_up(self, why: str) -> IncompleteRunError:
        self._gave_up = True
        return IncompleteRunError(why)

    def _who_lacks(self, place: str, stage: str, timeout_s: float) -> str:
        """Who has not come to *stage*, and where each was last."""
        with self._reached():
            missing = [r for r in range(self.count) if not self._store.check([f"{place}/{r}"])]
        self._blamed |= {*missing}
        if not missing:
            return f"all ranks came to {_in_words(stage)}, but not in time"
        elsewhere = [rank for rank in missing if self._is_elsewhere(rank)]
        if elsewhere:
            rank = elsewhere[0]
            return (
                f"{named(elsewhere)} came to {self._last_stage(rank)} where rank {self.rank} came "
                f"to {_in_words(stage)}: every rank must call warm_up, window and keep alike"
            )
        last = "; ".join(f"rank {rank} was last at {self._last_stage(rank)}" for rank in missing)
        return (
            f"{named(missing)} did not come to {_in_words(stage)} within {timeout_s:g} s ({last}): "
            "hanging, killed, or slower than ranks wait for each other (--rank-timeout, timeout_s)"
        )

    def _is_elsewhere(self, rank: int) -> bool:
        """Whether *rank* is in the same round as this one, at another stage."""
        with contextlib.suppress(Exception):
            if self._store.check([f"at/{rank}"]):
                at_round = json.loads(self._store.get(f"at/{rank}"))[0]
                return bool(at_round >= self._round)
        return False

    @contextlib.contextmanager
    def _reached(self) -> Iterator[None]:
        """Have an error of the network say that it is one."""
        try:
            yield
        except LlemError as fault:
            raise self._unreachable(str(fault)) from None
        except Exception as fault:
            words = " ".join(str(fault).split())[:200]
            raise self._unreachable(f"{type(fault).__name__}: {words}") from fault

    def _unreachable(self, why: str) -> IncompleteRunError:
        self._blamed.add(0)
        return self._giving_up(
            f"the store of the ranks cannot be reached any more: {why}; the launcher, or the "
            "machine of rank 0, is gone"
        )


def _in_words(stage: str) -> str:
    return STAGES.get(stage, repr(stage))
