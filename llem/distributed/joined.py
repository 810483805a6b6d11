"""What a rank has once it has met the others."""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from llem import measure
from llem.distributed import clocks
from llem.distributed.board import ANSWER_S, Board, bye
from llem.distributed.channel import Channel
from llem.distributed.errand import LocalStore, PatientStore, within
from llem.distributed.launch import Launch
from llem.errors import BackendError, ConfigError, IncompleteRunError, LlemError
from llem.protocols import Clock
from llem.store import Spool

KEPT = "kept"
"""Under which key the paths of the results are remembered."""

_STORES: dict[tuple[int, str], Any] = {}
"""
The stores that were made here, by process and address, for as long as the process lives: where its
host let one go, others that meet anew would find it in the middle of that.
"""

_PROCESS = secrets.token_hex(8)
"""Tells this process from others, but for those that it forks."""


@attrs.frozen(kw_only=True)
class Joined:
    """
    What a rank has once it has met the others.

    Attributes:
        board: Where they leave word.
        channel: What passes between them. None: this process is alone.
        run_id: Unique name of the run.
        clock_of: What tells the clock of each rank from others. Empty: not known.
        places: Where each rank leaves what it measured, as ``machine:folder``.
        kept_before: Paths of the results that earlier attempts of the launcher have kept, in order.
    """

    board: Board
    channel: Channel | None
    run_id: str
    clock_of: tuple[str, ...]
    places: tuple[str, ...]
    kept_before: tuple[str, ...]

    def away(self) -> dict[int, str]:
        """The ranks that leave what they measured elsewhere than this one, and where."""
        own = self.places[self.board.rank]
        return {rank: place for rank, place in enumerate(self.places) if place != own}

    @property
    def is_first_of_another_machine(self) -> bool:
        """Whether this is the lowest rank of a machine that is not that of rank 0."""
        machines = [place.partition(":/")[0] for place in self.places]
        rank = self.board.rank
        return machines.index(machines[rank]) == rank > 0

    def speaker_of(self, rank: int) -> int:
        """The lowest rank with the clock of *rank*, which compares it for all of them."""
        name = self.clock_of[rank]
        return self.clock_of.index(name) if name else rank

    def compare(self, clock: Clock) -> tuple[float, float] | None:
        """How far the clock of rank 0 is ahead. None: it is the same, or another rank asks."""
        board, channel = self.board, self.channel
        others = {self.speaker_of(rank) for rank in range(board.count)} - {0}
        if channel is None:
            return None
        if board.rank == 0:
            for rank in sorted(others):
                board.tell(f"clock/{rank}")
                board.step()
                clocks.answer(_Line(channel, rank), clock.monotonic)
        elif board.rank in others:
            # The others have their turn before.
            board.wait_for(f"clock/{board.rank}", 0, "compare the clocks")
            return clocks.ask(_Line(channel, 0), clock.monotonic)
        return None


@attrs.frozen
class _Line(clocks.Line):
    """The channel to rank *other*."""

    channel: Channel
    other: int

    def send(self, number: float) -> None:
        self.channel.send_number(number, self.other)

    def receive(self) -> float:
        return self.channel.receive_number(self.other)


def meet(launch: Launch, timeout_s: float, heed: Callable[[], None]) -> Board:
    """
    Find the other ranks' board.

    Args:
        launch: How this process was launched.
        timeout_s: How long ranks wait for each other. Unit: s.
        heed: Called while they are waited for; it raises where there is an order to end.

    Raises:
        BackendError: torch is not installed.
        ConfigError: Another process has this rank.
        IncompleteRunError: It is not to be found.
    """
    if launch.is_alone:
        return Board(LocalStore(), launch.rank, launch.world_size, timeout_s, heed)
    try:
        from torch.distributed.distributed_c10d import PrefixStore
    except (ImportError, OSError) as fault:
        raise BackendError(
            f"ranks need torch ({' '.join(str(fault).split())}): pip install 'llem[torch]'"
        ) from fault
    # What torch itself gives up after its timeout is told better by its own error.
    store = within(timeout_s + ANSWER_S, lambda: _store(launch, timeout_s), heed)
    with _meeting(launch):
        turn = _turn(PatientStore(store, ANSWER_S, heed), launch)
    board = Board(
        PrefixStore(_prefix(launch, turn), store),
        launch.rank,
        launch.world_size,
        timeout_s,
        heed,
        # torch gives the ranks of each attempt a part of the launcher's store.
        lasting=PrefixStore(f"llem/lasting/{turn}", getattr(store, "underlying_store", store)),
    )
    board.signs.begin()
    return board


def _prefix(launch: Launch, turn: int) -> str:
    return f"llem/{launch.attempt}/{turn}"


def _turn(store: PatientStore, launch: Launch) -> int:
    """
    How often this rank has met others, in this process and those that the launcher had before it.

    All ranks of one run have done so equally often.
    """
    rank, own = launch.rank, f"{_PROCESS}.{os.getpid()}"
    turn = int(store.add(f"llem/{launch.attempt}/turns/{rank}", 1))
    before = _prefix(launch, turn - 1)
    has_left, taken = f"{before}/{bye(rank)}", f"{before}/by/{rank}"
    is_free = turn == 1 or store.check([has_left])
    if not is_free and not (store.check([taken]) and store.get(taken).decode() == own):
        raise ConfigError(
            f"{turn} processes were started as rank {rank}: give each a RANK of its own; where "
            "one has died, start all ranks anew"
        )
    store.set(f"{_prefix(launch, turn)}/by/{rank}", own)
    return turn


def join(board: Board, launch: Launch, root: str, heed: Callable[[], None]) -> Joined:
    """
    Meet the other ranks, and agree on the name of the run.

    Args:
        board: Where they leave word.
        launch: How this process was launched.
        root: Where it keeps results.
        heed: As for `meet`.

    Raises:
        IncompleteRunError: One does not come, or cannot be reached.
    """
    name = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}_{secrets.token_hex(6)}"
    machine, _ = measure.identity()
    before = board.remembered(KEPT) or []
    told = board.exchange("join", [name, measure.clock_identity(), machine, root, before])
    run_id = str(told[0][0])
    return Joined(
        board=board,
        channel=None if launch.is_alone else Channel(board, heed),
        run_id=run_id,
        clock_of=tuple(clock for _, clock, *_ in told),
        places=tuple(_place(machine, root, run_id) for _, _, machine, root, _ in told),
        kept_before=tuple(told[0][-1]),
    )


def _place(machine: str, root: str, run_id: str) -> str:
    """Where a rank leaves what it measured. The path may be no Unicode."""
    place = f"{machine}:{Spool.of(root, run_id).folder}"
    return place.encode("utf-8", "backslashreplace").decode()


def _store(launch: Launch, timeout_s: float) -> Any:
    import torch.distributed
    from torch.distributed.rendezvous import rendezvous

    distributed: Any = torch.distributed  # not all that is public is declared so
    if distributed.is_initialized():
        # There is no public way to the store of a group that the program has made.
        return distributed.distributed_c10d._get_default_store()  # noqa: SLF001
    made = os.getpid(), launch.address
    if made not in _STORES:
        with _meeting(launch):
            store, *_ = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
        _STORES[made] = store
    return _STORES[made]


@contextlib.contextmanager
def _meeting(launch: Launch) -> Iterator[None]:
    """Have an error of the network say where the ranks were to meet."""
    try:
        yield
    except LlemError:
        raise
    except Exception as fault:
        words = " ".join(str(fault).split())[:200]
        raise IncompleteRunError(
            f"rank {launch.rank}: the ranks cannot meet at {launch.address}: "
            f"{type(fault).__name__}: {words}; see that all {launch.world_size} were started, and "
            "that the address can be reached"
        ) from fault
