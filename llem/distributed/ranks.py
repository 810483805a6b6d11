"""The ranks of a run: processes that measure together, as one of them sees them."""

import contextlib
import os
import warnings
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import attrs

from llem.codec import measurement_config_hash
from llem.distributed.board import FAREWELL_S, Board
from llem.distributed.ending import finish, remove_done
from llem.distributed.joined import KEPT, Joined, join, meet
from llem.distributed.launch import Launch, launched
from llem.distributed.orders import STOPPED, Orders, StopOrderError
from llem.distributed.shelter import leave
from llem.distributed.transfer import bring_together
from llem.distributed.words import GRACE_S
from llem.domain.conditions import Conditions
from llem.domain.process import RawProcessResult
from llem.domain.spool import RunManifest, named
from llem.errors import (
    ConfigError,
    IncompleteRunError,
    LlemWarning,
)
from llem.experiment import llem_version, reason_of
from llem.protocols import Clock, ClockComparison, Peers, StoredResult
from llem.store import ResultStore, Spool
from llem.store.reading import MAX_MEASURED_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

TIMEOUT_S = 600.0
"""How long ranks wait for each other unless told otherwise. Unit: s."""

MAX_TIMEOUT_S = 1e6
"""Longest time that ranks may be told to wait for each other: some 12 days. Unit: s."""


@attrs.define(kw_only=True)
class _Part:
    """
    What has become of one Experiment in this rank.

    Attributes:
        is_measuring: Whether it goes on.
        has_left: Whether what it measured is left in the folder of the run.
        is_over: Whether its result is kept.
        kept: The result, on rank 0.
        kept_at: Path of the result.
    """

    is_measuring: bool = False
    has_left: bool = False
    is_over: bool = False
    kept: StoredResult | None = None
    kept_at: str = ""


class Ranks(Peers):
    """
    The processes that a launcher of torch.distributed, such as ``torchrun``, has started.

    Without a launcher this process is the only one, and torch is not needed.

    >>> with Ranks("results") as ranks:  # doctest: +SKIP
    ...     with Experiment(config, peers=ranks) as run:
    ...         ...
    ...     kept = ranks.keep()

    Every rank does this. Each measures its own devices in one window, and leaves what it measured
    in a folder of the run below ``.state`` of its root. `keep` then makes one result of all: call
    it inside the block, once for each Experiment; without it there is no result. All else here is
    for the Experiment to call.

    While entered, Ctrl-C and SIGTERM end the run in order: what is measured to its end is left.
    The program may have a process group of torch.distributed, or make one, or have none.

    Args:
        root: Where results are kept. It need not be the same folder on every machine: the result
            is kept in that of rank 0.
        timeout_s: How long ranks wait for each other, for the slowest at the end of the window
            too. Unit: s.

    Raises:
        ConfigError: The launcher's variables contradict each other, or *timeout_s* is no time.
        IncompleteRunError: On entering: the other ranks cannot be reached.
        BackendError: On entering: there is a launcher, and torch is not installed.
        StoreWriteError: On entering: nothing can be written in *root*.
    """

    def __init__(self, root: str | os.PathLike[str], *, timeout_s: float = TIMEOUT_S) -> None:
        if not _is_timeout(timeout_s):
            raise ConfigError(
                f"timeout_s must be seconds, more than 0 and up to {MAX_TIMEOUT_S:.0f}, got "
                f"{timeout_s!r}"
            )
        self._launch = launched() or Launch()
        self._root = Path(os.path.abspath(root))
        self._timeout_s = float(timeout_s)
        self._leaving = contextlib.ExitStack()
        self._at_work = contextlib.ExitStack()
        self._orders = Orders()
        self._board: Board | None = None
        self._joined: Joined | None = None
        self._pid = os.getpid()
        self._part = _Part()
        self._kept: list[str] = []
        self._is_speaker = True
        self._is_parted = False

    @property
    def index(self) -> int:
        """Which of them this process is, from 0."""
        return self._launch.rank

    @property
    def count(self) -> int:
        """How many they are."""
        return self._launch.world_size

    @property
    def kept_before(self) -> tuple[str, ...]:
        """
        Paths of the results that earlier attempts of the launcher have kept, in order, at rank 0.

        Where a launcher starts all ranks again because one died, these need not be measured again:
        where there are k, that are the first k Experiments of the block.
        """
        return self._ready().kept_before

    def __enter__(self) -> Self:
        self._part, self._is_parted, self._pid = _Part(), False, os.getpid()
        self._kept, self._is_speaker = list[str](), True
        self._at_work, self._orders = contextlib.ExitStack(), Orders()
        with contextlib.ExitStack() as leaving:
            leaving.enter_context(self._orders)
            leaving.push(self._leave)
            leaving.callback(self._at_work.close)
            heed = self._orders.follow
            self._board = meet(self._launch, self._timeout_s, heed)
            self._joined = join(self._board, self._launch, str(self._root), heed)
            ResultStore(self._root).check_writable()
            self._spool.check_writable()
            self._tell_kept_before()
            self._leaving = leaving.pop_all()
        return self

    def _tell_kept_before(self) -> None:
        if self.kept_before and self.index == 0:
            count, paths = len(self.kept_before), ", ".join(self.kept_before)
            warnings.warn(
                f"an earlier attempt of the launcher has kept "
                f"{'the result' if count == 1 else f'{count} results'} of this run at {paths}",
                LlemWarning,
                stacklevel=3,
            )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leaving.__exit__(kind, error, trace)

    def exchange(self, stage: str, value: Any, /) -> tuple[Any, ...]:
        """
        Return once every rank is at *stage*, with the *value* of each, by rank.

        Raises:
            IncompleteRunError: A rank failed, or does not come in time; the text names it.
        """
        joined = self._ready()
        if stage == "agree":
            self._begin_anew()
        return joined.board.exchange(stage, value)

    def _begin_anew(self) -> None:
        """Nothing is left or kept of the next Experiment yet."""
        if self._part.is_measuring:
            raise IncompleteRunError(
                "an Experiment of these ranks is not over: leave its block before the next one"
            )
        self._ready().board.check_whole()
        if self._part.has_left and not self._part.is_over:
            raise IncompleteRunError(
                "what was measured before is not kept yet: call keep() before the next Experiment"
            )
        self._part = _Part(is_measuring=True)

    def compare_clocks(self, clock: Clock, /) -> ClockComparison:
        """
        How *clock* goes beside that of rank 0: to the bit where they are one, else by messages.

        Raises:
            IncompleteRunError: A rank failed, or does not come in time; the text names it.
        """
        joined = self._ready()
        now = [clock.now().isoformat(), clock.monotonic()] if self.index == 0 else None
        moment, anchor_s = self.exchange("clock", now)[0]
        own = joined.compare(clock)
        told = self.exchange("clocks", own)
        beside = told[joined.speaker_of(self.index)]
        return ClockComparison(
            offset_s=beside[0] if beside else 0.0,
            error_s=beside[1] if beside else None,
            anchor=(datetime.fromisoformat(moment), anchor_s),
        )

    def align(self, device: str | None, /) -> None:
        """
        Return at the same moment in every rank.

        Raises:
            IncompleteRunError: One of them is gone.
        """
        joined = self._ready()
        joined.board.come_to("align")
        why = joined.channel.align(device) if joined.channel else None
        joined.board.come_to("window")
        if why is not None and self.index == 0:
            warnings.warn(
                f"only the hosts begin together, for nccl cannot reach their GPUs: {why}",
                LlemWarning,
                stacklevel=2,
            )

    def hand_over(
        self,
        process: RawProcessResult,
        conditions: Conditions,
        timeseries: "pa.Table | None",
        /,
    ) -> None:
        """
        Leave what this rank measured in the folder of the run.

        Raises:
            StoreWriteError: It could not be written there; the text says where it was put instead.
        """
        manifest = RunManifest(
            run_id=self._ready().run_id,
            experiment_id=process.experiment_id,
            num_processes=self.count,
            measurement_config_hash=measurement_config_hash(process.effective_config),
            llem_version=llem_version(),
            places=self._ready().places,
        )
        leave(self._spool, manifest, process, conditions, timeseries, at_work=self._at_work)
        self._part.has_left, self._part.is_measuring = True, False

    def keep(self) -> StoredResult | None:
        """
        Make one result of what all ranks left, and keep it. Every rank calls this.

        Returns:
            The result as kept, on rank 0. None on the others.

        Raises:
            IncompleteRunError: A rank has left nothing, or failed; the text names it. What the
                others left stays, for `llem aggregate`.
            StoreWriteError: The result could not be written. What the ranks left stays.
        """
        try:
            if not self._part.is_over:
                self._keep(self._ready())
        except BaseException as error:
            self.fail(reason_of(error))
            raise
        return self._part.kept

    def _keep(self, joined: Joined) -> None:
        bring_together(joined.board, joined.channel, self._spool)
        self._at_work.close()
        self.exchange("over", None)
        if self.index == 0:
            # From here on the others are not needed, whatever becomes of them.
            store = ResultStore(self._root, max_json_bytes=MAX_MEASURED_BYTES)
            self._part.kept = finish(self._spool, store, step=joined.board.step)
            self._part.kept_at = os.fspath(self._part.kept.path)
            self._kept.append(self._part.kept_at)
            joined.board.remember(KEPT, [*self.kept_before, *self._kept])
            joined.board.tell("kept", self._part.kept_at)
        else:
            self._part.kept_at = joined.board.wait_for("kept", 0, "keep the result of all")
            remove_done(self._spool)
        self._part.is_over = True

    def undisturbed(self) -> AbstractContextManager[None]:
        """While entered, orders to end wait: nothing that was measured is given up for them."""
        return self._orders.waiting()

    def fail(self, reason: str, /) -> None:
        """Tell the other ranks that this one gives up."""
        if self._board is not None and self._is_own_process:
            self._part.is_measuring = False
            self._board.fail(reason)

    def heed(self) -> None:
        """Raise what a person or the launcher ordered, where a library has swallowed it."""
        self._orders.heed()

    def is_to_tell(self) -> bool:
        """
        Whether it is for this rank to tell a person why the run failed.

        Each machine has an output of its own, and one of its ranks tells there.
        """
        return self._is_speaker

    @property
    def _is_own_process(self) -> bool:
        """Whether this is the process that has entered, and none that it forked."""
        return os.getpid() == self._pid

    @property
    def _spool(self) -> Spool:
        return Spool.of(self._root, self._ready().run_id)

    def _left(self) -> list[int]:
        """The ranks that have left what they measured where this one can see it."""
        return [rank for rank in range(self.count) if self._spool.is_marked(rank)]

    def _ready(self) -> Joined:
        if self._joined is not None:
            return self._joined
        if self._is_parted:
            raise IncompleteRunError(
                "the ranks have parted: measure, and call keep(), inside the block of `with Ranks`"
            )
        raise IncompleteRunError("the ranks have not met yet: use `with Ranks(...)`")

    def _leave(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        """On the way out: tell the others what went wrong here, and say what became of them."""
        if not self._is_own_process:
            return
        # Nothing more is to be given up: what follows is short.
        self._orders.hold()
        try:
            if error is None or (isinstance(error, SystemExit) and not error.code):
                self._leave_well()
            else:
                self._leave_for(error)
        finally:
            if self._joined is not None and self._joined.channel is not None:
                self._joined.channel.close()
            if self._board is not None:
                # Who failed has said so, and it is known to those who wait.
                first = self._joined is not None and self._joined.is_first_of_another_machine
                self._is_speaker = error is None or first or self._board.is_to_tell()
                within_s = FAREWELL_S if error is None else GRACE_S
                self._board.part(within_s=0.0 if self._orders.is_given else within_s)
            self._joined, self._board, self._is_parted = None, None, True

    def _leave_well(self) -> None:
        if self._part.is_over:
            return
        self.fail(
            "left the block of its Ranks without keep(): every rank must call it"
            if self._part.has_left
            else "left the block of its Ranks before the run was over: every rank must measure, "
            "and call keep()"
        )
        if self._part.has_left and self.index == 0:
            warnings.warn(
                f"what the ranks measured was not kept: call keep() in each of them; "
                f"{self._where()}",
                LlemWarning,
                stacklevel=5,
            )

    def _leave_for(self, error: BaseException) -> None:
        self.fail(reason_of(error))
        if isinstance(error, StopOrderError):
            report = (
                self._board.report()
                if self._board
                else f"rank {self.index}: {STOPPED}, before it had met the others"
            )
            raise self._noted(IncompleteRunError(report)) from None
        self._noted(error)

    def _noted(self, error: BaseException) -> BaseException:
        """*error*, with a word on what is left of the run."""
        if self._part.kept_at:
            error.add_note(f"the result was kept at {self._part.kept_at}")
        elif self._joined is not None and self._left():
            error.add_note(self._where())
        elif self._joined is not None and self._part.has_left:
            error.add_note(
                f"what the ranks left in {self._spool.folder} is gone: see by `llem list` whether "
                "its result was kept"
            )
        return error

    def _where(self) -> str:
        """Where that is which ranks have left, and what makes a result of it."""
        left, folder = self._left(), self._spool.folder
        if len(left) == self.count:
            return f"what they measured is kept in {folder}: `llem aggregate {folder}` finishes it"
        missing = {rank for rank in range(self.count) if rank not in left}
        away = {rank: place for rank, place in self._ready().away().items() if rank in missing}
        wanted = []
        if away:
            places = ", ".join(dict.fromkeys(away.values()))
            wanted.append(f"what {named(away)} may have left in {places} is copied into it")
        if near := missing - away.keys():
            wanted.append(f"{named(near)} {'has' if len(near) == 1 else 'have'} left files there")
        return (
            f"what {named(left)} measured is kept in {folder}: `llem aggregate {folder}` finishes "
            f"it once {' and '.join(wanted)}, or without what is missing (--allow-incomplete)"
        )


def _is_timeout(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value <= MAX_TIMEOUT_S
