"""
The board on which the ranks of a run leave word: a torch.distributed store.

Every wait on it ends: when what is waited for is there, when a rank has said that it failed, when
one has given no sign of life for long, or when its time is over. Then it is known, and told, who
did not come.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import attrs

from llem.distributed.errand import PatientStore
from llem.distributed.orders import STOPPED
from llem.distributed.signs import Signs, Vigil
from llem.distributed.words import MOMENT_S, Verdict, Word, Words
from llem.domain.spool import named
from llem.errors import IncompleteRunError, LlemError

LEAST_WAIT_S, MOST_WAIT_S = 0.001, 0.1
"""Time between two looks at the board: the longer a rank has waited, the longer. Unit: s."""

STAGES = {
    "join": "the start of the run",
    "agree": "comparing configurations",
    "share": "naming its devices",
    "introduce": "naming its devices",
    "idle": "the idle devices",
    "begin": "the begin of the measured window",
    "clock": "comparing clocks",
    "clocks": "comparing clocks",
    "align": "the begin of the measured window",
    "window": "the measured window",
    "end": "the end of the measured window",
    "left": "leaving what it measured",
    "bring": "sending what it measured",
    "brought": "sending what it measured",
    "over": "the end of measuring",
    "kept": "the end of the run",
}
"""What a person is told of each stage."""

FAREWELL_S = 10.0
"""How long rank 0 waits for the others before it takes the board along. Unit: s."""

WATCH_S = 0.5
"""Time between two looks at the others while something else waits for them. Unit: s."""

MAX_REASON = 4000
"""Characters of what went wrong in one rank that the others are told."""

ANSWER_S = 30.0
"""Longest time that the store may take for an answer. Unit: s."""


_NOWHERE = 0, ""
"""Where a rank is that has not left word."""


class Board:
    """
    What the ranks tell each other.

    Args:
        store: A store of torch.distributed, no key of which is another run's.
        rank: This rank.
        count: How many there are.
        timeout_s: How long ranks wait for each other. Unit: s.
        heed: Called while something is waited for; it raises where there is an order to end.
        lasting: The same store where ranks that the launcher starts again find what these left.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        count: int,
        timeout_s: float,
        heed: Callable[[], None],
        *,
        lasting: Any = None,
    ) -> None:
        self.rank, self.count, self.timeout_s = rank, count, timeout_s
        self._lasting: Any = store if lasting is None else lasting
        self._bare: Any = store
        self._heed = heed
        self._store = PatientStore(store, min(timeout_s, ANSWER_S), heed)
        self.signs = Signs(store, self._store, rank, count)
        self._words = Words(self._store, self.signs, rank, count, self._last_stage)
        self._verdict = Verdict()
        self._vigil = Vigil(self.signs)
        self._watched_s = 0.0
        self._round = 0
        self._has_failed = self._gave_up = False

    def is_to_tell(self) -> bool:
        """
        Whether a person is to hear of the failure from this rank.

        Rank 0 speaks for all. Another one tells of its own fault, unless rank 0 has the same; and
        all do where rank 0 is at fault and says nothing, or where nobody knows who is.
        """
        verdict = self._verdict
        if self.rank == 0:
            return True
        if not verdict.blamed:
            return not verdict.is_stop
        if 0 in verdict.blamed and all(word.rank for word in self._words.said()):
            return True
        return self.rank in verdict.blamed and not self._has_rank_0_the_same()

    def _has_rank_0_the_same(self) -> bool:
        deadline = time.monotonic() + MOMENT_S
        while time.monotonic() < deadline:
            texts = {word.rank: word.text for word in self._words.said()}
            if 0 in texts:
                return texts[0] == texts.get(self.rank)
            time.sleep(0.02)
        return False

    def under(self, name: str) -> Any:
        """A store for what is no matter of the board, its keys under *name*."""
        from torch.distributed.distributed_c10d import PrefixStore

        # Who waits on a store for long keeps others from using it, so it gets a client of its own.
        return PrefixStore(name, self._bare.clone() if self.can_watch else self._bare)

    @property
    def can_watch(self) -> bool:
        """Whether the others can be watched while a process group is being connected."""
        return hasattr(self._bare, "clone")

    def exchange(self, stage: str, value: Any) -> tuple[Any, ...]:
        """
        Return once every rank is at *stage*, with the value of each.

        Args:
            stage: The stage.
            value: What JSON can hold.

        Raises:
            IncompleteRunError: One failed, or does not come in time; the text names it.
        """
        self._round += 1
        place, said = f"{self._round}/{stage}", json.dumps(value)
        self.come_to(stage)
        with self._reached():
            self._store.set(f"{place}/{self.rank}", said)
            if self._store.add(f"{place}/arrived", 1) == self.count:
                self._store.set(f"{place}/all", "1")
        self._await(f"{place}/all", lambda living: self._late(place, stage, living))
        with self._reached():
            values = self._store.multi_get([f"{place}/{rank}" for rank in range(self.count)])
        return tuple(json.loads(one) for one in values)

    def come_to(self, stage: str) -> None:
        """Leave word that this rank is at *stage*, without waiting for the others."""
        with self._reached():
            self._store.set(f"at/{self.rank}", json.dumps([self._round, stage]))

    def tell(self, key: str, value: Any = None) -> None:
        """Leave *value*, which JSON can hold, under *key*, until the next exchange."""
        with self._reached():
            self._store.set(f"{self._round}/{key}", json.dumps(value))

    def step(self) -> None:
        """Let the others see that this rank gets on with what they wait for, long as it takes."""
        self.signs.step()

    def wait_for(self, key: str, whom: int, what: str) -> Any:
        """
        What rank *whom* has left under *key* since the last exchange, once it has.

        Raises:
            IncompleteRunError: It does not, in time, or one failed. *what* says what it did not do.
        """

        def late(_living: set[int]) -> Verdict:
            text = f"rank {whom} did not {what}, nor get on with it, within {self.timeout_s:g} s"
            return Verdict(text=text, blamed={whom})

        self._await(f"{self._round}/{key}", late)
        with self._reached():
            return json.loads(self._store.get(f"{self._round}/{key}"))

    def remember(self, key: str, value: Any) -> None:
        """Leave *value* under *key* for ranks that the launcher starts again; as far as it can."""
        with contextlib.suppress(Exception):
            self._lasting.set(key, json.dumps(value))

    def remembered(self, key: str) -> Any:
        """What ranks that were started before these have left under *key*. None: nothing."""
        with self._reached():
            if self._lasting.check([key]):
                return json.loads(self._lasting.get(key))
        return None

    def fail(self, reason: str) -> None:
        """
        Tell all that this rank has failed. Only the first reason is told.

        A rank that gave up waiting has no fault of its own: it tells whom it waited for.
        """
        if self._has_failed:
            return
        if reason == STOPPED:
            self._words.say(Word(rank=self.rank, text=reason, kind="stopped"))
        elif self._gave_up:
            blamed = sorted(self._verdict.blamed)
            word = Word(rank=self.rank, text=reason, kind="verdict", blamed=blamed)
            self._words.say(attrs.evolve(word, kind="echo") if self._verdict.is_stop else word)
        else:
            self._verdict = Verdict(text=reason, blamed={self.rank})
            text = reason if len(reason) <= MAX_REASON else f"{reason[:MAX_REASON]} ..."
            self._words.say(Word(rank=self.rank, text=text, kind="fault", blamed=[self.rank]))
        self._has_failed = True

    def check_whole(self) -> None:
        """
        See that no rank has failed so far.

        Raises:
            IncompleteRunError: One has, and for these ranks it is over.
        """
        if self._words.said():
            raise IncompleteRunError(
                f"{self.report()}: nothing more can be measured with these ranks: use a `with "
                "Ranks(...)` of its own for each Experiment that may fail"
            )

    def report(self) -> str:
        """What has become of the ranks, now that one has failed."""
        self._verdict = self._words.verdict()
        return self._verdict.text

    def lost(self, why: str) -> IncompleteRunError:
        """
        The error of a rank that cannot go on with the others, all of whom were on their way.

        It says what they say of it, who gives no sign, or who is not where this one is. Where
        nobody knows it says *why*.
        """
        try:
            self.report()
            if not self._verdict.blamed:
                self._verdict = self._behind(why)
        except IncompleteRunError as unreachable:
            return unreachable
        return self._giving_up()

    def watch(self) -> None:
        """
        See that none of the others has failed, or is gone, while what waits for them cannot.

        Raises:
            IncompleteRunError: One has, or is; the text names it.
        """
        self._heed()
        if time.monotonic() - self._watched_s >= WATCH_S:
            self._watched_s = time.monotonic()
            self._see_to(self._vigil, {*range(self.count)})

    def part(self, *, within_s: float = FAREWELL_S) -> None:
        """
        Leave the board, and let go of its store. Rank 0, which may be its host, goes last.

        Whatever goes wrong with that is no matter any more.

        Args:
            within_s: How long rank 0 waits for the others. Unit: s.
        """
        with contextlib.suppress(Exception):
            if self.rank == 0 and not self._is_hosted_elsewhere:
                self._wait_for_byes(time.monotonic() + within_s)
            self._store.set(bye(self.rank), "1")
        self.signs.end()
        # A program that makes a group anew must not meet the store of the one before.
        self._store.let_go()
        self._bare = self._lasting = None

    @property
    def _is_hosted_elsewhere(self) -> bool:
        """Whether the launcher is the host of the board, which then outlives its ranks."""
        return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"

    def _wait_for_byes(self, deadline_s: float) -> None:
        byes = [bye(rank) for rank in range(1, self.count)]
        while byes and not self._store.check(byes) and time.monotonic() < deadline_s:
            time.sleep(0.01)

    def _last_stage(self, rank: int) -> str:
        return _stage_of(self._places().get(rank))

    def _places(self) -> dict[int, tuple[int, str]]:
        """Round and stage that each rank has come to, as far as that is known."""
        keys = {f"at/{rank}": rank for rank in range(self.count)}
        with contextlib.suppress(Exception):
            there = self._store.present([*keys])
            values = map(json.loads, self._store.multi_get(there) if there else [])
            return {keys[key]: (at[0], at[1]) for key, at in zip(there, values, strict=True)}
        return {}

    def _await(self, key: str, late: Callable[[set[int]], Verdict]) -> None:
        # The store's own wait would print a warning for each time that it ends without the key.
        began_s = time.monotonic()
        vigil = Vigil(self.signs, self.timeout_s)
        while not self._is_told(key):
            # Rank 0 waits for all, and the others for what it then says.
            self._see_to(vigil, {*range(self.count)} if self.rank == 0 else {0})
            waited_s = time.monotonic() - max(began_s, vigil.stepped_s(0))
            if waited_s >= self.timeout_s:
                self._verdict = late(vigil.living())
                raise self._giving_up() from None
            self._heed()
            time.sleep(min(LEAST_WAIT_S + waited_s / 10, MOST_WAIT_S))

    def _see_to(self, vigil: Vigil, ranks: set[int]) -> None:
        """Give up where a rank has said that it failed, or one of *ranks* gives no sign of life."""
        if self._words.said():
            self.report()
            raise self._giving_up() from None
        with self._reached():
            vigil.look()
        if gone := vigil.gone() & ranks:
            self._verdict = Verdict(text=self._words.silence(gone), blamed=gone)
            raise self._giving_up() from None

    def _is_told(self, key: str) -> bool:
        with self._reached():
            told: bool = self._store.check([key])
        return told

    def _giving_up(self) -> IncompleteRunError:
        self._gave_up = True
        return IncompleteRunError(self._verdict.text)

    def _late(self, place: str, stage: str, living: set[int]) -> Verdict:
        """Who has not come to *stage*, and where each was last; *living* have given signs."""
        keys = {f"{place}/{rank}": rank for rank in range(self.count)}
        with self._reached():
            there = {*self._store.present([*keys])}
        missing = [rank for key, rank in keys.items() if key not in there]
        if not missing:
            return Verdict(text=f"all ranks came to {_in_words(stage)}, but not in time")
        places = self._places()
        elsewhere = [rank for rank in missing if places.get(rank, _NOWHERE)[0] >= self._round]
        if elsewhere:
            text = (
                f"{named(elsewhere)} came to {_in_words(places[elsewhere[0]][1])} where rank "
                f"{self.rank} came to {_in_words(stage)}: every rank must call warm_up, window and "
                "keep alike"
            )
        else:
            killed = "" if living.issuperset(missing) else ", killed"
            text = (
                f"{named(missing)} did not come to {_in_words(stage)} within {self.timeout_s:g} s "
                f"({_last(missing, places)}): hanging{killed}, or slower than ranks wait for each "
                "other (--rank-timeout, timeout_s)"
            )
        return Verdict(text=text, blamed=missing)

    def _behind(self, why: str) -> Verdict:
        """Who is not yet where this rank is, which cannot go on, and says *why*."""
        with self._reached():
            self._store.check([f"at/{self.rank}"])
        places = self._places()
        own = _order(places.get(self.rank, _NOWHERE))
        ranks = range(self.count)
        behind = [rank for rank in ranks if _order(places.get(rank, _NOWHERE)) < own]
        if not behind:
            return Verdict(text=why)
        where = _in_words(places[self.rank][1])
        text = f"{named(behind)} did not come to {where} ({_last(behind, places)}): {why}"
        return Verdict(text=text, blamed=behind)

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
        # Its host may have said why it left.
        self._verdict = self._words.judged()
        if not self._verdict.blamed:
            self._verdict = Verdict(
                text=f"the store of the ranks cannot be reached any more: {why}; the launcher, or "
                "the machine of rank 0, is gone",
                blamed={0},
            )
        return self._giving_up()


def bye(rank: int) -> str:
    """Under which key *rank* leaves word that it has left the board."""
    return f"bye/{rank}"


def _order(place: tuple[int, str]) -> tuple[int, int]:
    """What tells whether one place comes before another one."""
    in_round, stage = place
    return in_round, [*STAGES].index(stage) if stage in STAGES else -1


def _last(ranks: Iterable[int], places: Mapping[int, tuple[int, str]]) -> str:
    """Where each of *ranks* was last."""
    by_stage: dict[str, list[int]] = {}
    for rank in ranks:
        by_stage.setdefault(_stage_of(places.get(rank)), []).append(rank)
    return "; ".join(
        f"{named(those)} {'was' if len(those) == 1 else 'were'} last at {stage}"
        for stage, those in by_stage.items()
    )


def _stage_of(place: tuple[int, str] | None) -> str:
    return "being launched" if place is None else _in_words(place[1])


def _in_words(stage: str) -> str:
    return STAGES.get(stage, repr(stage))
