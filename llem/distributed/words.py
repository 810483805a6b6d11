"""What ranks say at their end, where that is not the end of the run, and whose fault it was."""

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterable
from typing import Literal

import attrs

from llem.distributed.errand import PatientStore
from llem.distributed.signs import PERIOD_S, Signs
from llem.domain.spool import named

GRACE_S = 3 * PERIOD_S
"""Time that ranks have to say what happened, or to give a sign, once one failed. Unit: s."""

MOMENT_S = 0.5
"""Time that further ranks have to say what happened to them once one has. Unit: s."""

LOOK_S = 0.1
"""Time between two looks at what they say; longer where many ranks look. Unit: s."""

RANKS_A_SECOND = 1000
"""So many more ranks make the time between two looks a second longer."""

_KEY = "words"


@attrs.frozen(kw_only=True)
class Word:
    """
    What a rank says at its end.

    Attributes:
        rank: The rank.
        text: Why it ended.
        kind: fault: its own. verdict: it tells of others, whom it has waited for. stopped: it was
            told to end. echo: it ended as others were told to.
        blamed: Whose fault it was, as far as it knows.
    """

    rank: int
    text: str
    kind: Literal["fault", "verdict", "stopped", "echo"]
    blamed: Collection[int] = ()


@attrs.frozen(kw_only=True)
class Verdict:
    """
    What went wrong.

    Attributes:
        text: In words. Empty: nobody knows.
        blamed: Whose fault it was. Empty: nobody's, or that is not known.
        is_stop: Whether all that is known is that ranks were told to end.
    """

    text: str = ""
    blamed: Collection[int] = ()
    is_stop: bool = False


class Words:
    """
    What the ranks say at their end.

    Args:
        store: Where they leave it.
        signs: Their signs of life.
        rank: This rank.
        count: How many there are.
        last_stage: Gives where a rank was last, in words.
    """

    def __init__(
        self,
        store: PatientStore,
        signs: Signs,
        rank: int,
        count: int,
        last_stage: Callable[[int], str],
    ) -> None:
        self._store, self._signs = store, signs
        self._rank, self._count = rank, count
        self._last_stage = last_stage
        self._known: tuple[Word, ...] = ()

    def say(self, word: Word) -> None:
        """Leave *word*, in one step, so that an order that comes meanwhile leaves no half of it."""
        with contextlib.suppress(Exception):
            self._store.append(_KEY, json.dumps(attrs.asdict(word)) + "\n")

    def said(self) -> tuple[Word, ...]:
        """The first word of each rank that has ended, in the order in which they did."""
        with contextlib.suppress(Exception):
            if self._store.check([_KEY]):
                lines = self._store.get(_KEY).decode().splitlines()
                words: dict[int, Word] = {}
                for word in (Word(**json.loads(line)) for line in lines):
                    words.setdefault(word.rank, word)
                # Once the store is gone, what was read of it before is all there is.
                self._known = tuple(words.values())
        return self._known

    def verdict(self) -> Verdict:
        """
        What has become of the ranks: waits for those that can still say, or give a sign.

        What ranks say of themselves comes before what others say of them, and silence after both.
        """
        deadline_s = time.monotonic() + GRACE_S
        silent = self._unheard()
        try:
            before = self._signs.seen()
            while silent and time.monotonic() < deadline_s:
                if any(word.blamed for word in self._known):
                    deadline_s = min(deadline_s, time.monotonic() + MOMENT_S)
                time.sleep(LOOK_S + self._count / RANKS_A_SECOND)
                signs = self._signs.seen().items()
                moved = {rank for rank, sign in signs if sign != before.get(rank)}
                silent &= self._unheard() - moved
        except Exception:  # noqa: BLE001  # whatever a store raises that is gone
            silent.clear()
        return self.judged(silent)

    def _unheard(self) -> set[int]:
        """The other ranks that have said nothing."""
        return {*range(self._count)} - {word.rank for word in self.said()} - {self._rank}

    def judged(self, silent: Collection[int] = ()) -> Verdict:
        """What is known so far, where the ranks *silent* give no sign."""
        words = self._known
        faults = [word for word in words if word.kind == "fault"]
        verdicts = [word for word in words if word.kind == "verdict"]
        verdicts.sort(key=lambda word: not word.blamed)
        if faults:
            return Verdict(text=_each(faults), blamed={word.rank for word in faults})
        if verdicts and verdicts[0].blamed:
            return Verdict(text=verdicts[0].text, blamed=verdicts[0].blamed)
        if silent:
            return Verdict(text=self.silence(silent), blamed=silent)
        if verdicts:
            return Verdict(text=_each(verdicts))
        if words:
            # An echo names the ranks that were told to end.
            texts = dict.fromkeys(word.text for word in words)
            stopped = [word for word in words if word.kind == "stopped"]
            return Verdict(text=_each(stopped) or "; ".join(texts), is_stop=True)
        return Verdict()

    def silence(self, silent: Collection[int]) -> str:
        """What is said of those who say nothing."""
        only, *others = sorted(silent)
        where = "" if others else f", last at {self._last_stage(only)}"
        return (
            f"{named([only, *others])}: no sign of life{where}: killed, out of memory, or cut off; "
            "see its own output"
        )


def _each(words: Iterable[Word]) -> str:
    by_text: dict[str, list[int]] = {}
    for word in words:
        by_text.setdefault(word.text, []).append(word.rank)
    lines = sorted((sorted(ranks), text) for text, ranks in by_text.items())
    return "; ".join(f"{named(ranks)}: {text}" for ranks, text in lines)
