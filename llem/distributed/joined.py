"""What a rank has once it has met the others."""

import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from llem import measure
from llem.distributed import clocks
from llem.distributed.board import ANSWER_S, Board
from llem.distributed.channel import Channel
from llem.distributed.errand import LocalStore, within
from llem.distributed.launch import Launch
from llem.errors import BackendError, IncompleteRunError
from llem.protocols import Clock
from llem.store import Spool

MANY_TURNS_S = 3600.0
"""How long ranks wait at least where rank 0 has to do with each of them in turn. Unit: s."""

KEPT = "kept"
"""Under which key the path of the result is remembered."""

_JOINS = [0]
"""How often this process has met others: those of one run have all done so equally often."""


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
        kept_before: Path of the result that an earlier attempt of the launcher has kept. None:
            there is none.
    """

    board: Board
    channel: Channel | None
    run_id: str
    clock_of: tuple[str, ...]
    places: tuple[str, ...]
    kept_before: str | None

    def beside(self, ranks: Sequence[int]) -> str:
        """The places of *ranks* that are not that of this one, in words. Empty: there are none."""
        own = self.places[self.board.rank]
        others = dict.fromkeys(self.places[rank] for rank in ranks)
        return ", ".join(place for place in others if place != own)

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
                clocks.answer(_Line(channel, rank), clock.monotonic)
        elif board.rank in others:
            # The others have their turn before.
            board.wait_for(f"clock/{board.rank}", 0, "compare the clocks", at_least_s=MANY_TURNS_S)
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
    _JOINS[0] += 1
    # What torch itself gives up after its timeout is told better by its own error.
    store = within(timeout_s + ANSWER_S, lambda: _store(launch, timeout_s), heed)
    board = Board(
        PrefixStore(f"llem/{launch.attempt}/{_JOINS[0]}", store),
        launch.rank,
        launch.world_size,
        timeout_s,
        heed,
        # torch gives the ranks of each attempt a part of the launcher's store.
        lasting=PrefixStore(f"llem/lasting/{_JOINS[0]}", getattr(store, "underlying_store", store)),
    )
    board.signs.begin()
    return board


def join(board: Board, launch: Launch, root: str, heed: Callable[[], None]) -> Joined:
    """
    Meet the other ranks, and agree on the name of the run.

    Args:
        board: Where they leave word.
        launch: How this process was launched.
        root: Where it keeps results.
        heed: As for `meet`.

    Raises:
        ConfigError: Another process has this rank.
        IncompleteRunError: One does not come, or cannot be reached.
    """
    board.claim()
    name = f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}_{secrets.token_hex(6)}"
    machine, _ = measure.identity()
    before = board.remembered(KEPT)
    told = board.exchange("join", [name, measure.clock_identity(), machine, root, before])
    run_id = str(told[0][0])
    return Joined(
        board=board,
        channel=None if launch.is_alone else Channel(board, heed),
        run_id=run_id,
        clock_of=tuple(clock for _, clock, *_ in told),
        places=tuple(_place(machine, root, run_id) for _, _, machine, root, _ in told),
        kept_before=told[0][-1],
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
    try:
        places = rendezvous("env://", timeout=timedelta(seconds=timeout_s))
        return next(places)[0]
    except Exception as fault:
        words = " ".join(str(fault).split())[:200]
        raise IncompleteRunError(
            f"rank {launch.rank}: the ranks cannot meet at {launch.address}: "
            f"{type(fault).__name__}: {words}; see that all {launch.world_size} were started, and "
            "that the address can be reached"
        ) from fault
