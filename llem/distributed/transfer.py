"""What ranks left on other machines, brought to rank 0."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

from llem.distributed.board import Board
from llem.distributed.channel import Channel
from llem.errors import IncompleteRunError
from llem.store import Spool


def bring_together(board: Board, channel: Channel | None, spool: Spool) -> None:
    """
    Have the folder of the run that rank 0 sees hold what every rank left.

    Nothing is sent where they share a file system. Every rank calls this.

    Raises:
        IncompleteRunError: A rank has not left anything, or cannot be reached.
        StoreWriteError: There is no room for it at rank 0.
    """
    board.exchange("left", None)
    ranks = range(board.count) if board.rank == 0 else ()
    away = [rank for rank in ranks if not spool.is_marked(rank)]
    if 0 in away:
        raise IncompleteRunError(
            f"nothing was left in {spool.folder}: leave an Experiment with peers= these ranks, "
            "then call keep(); where you did, the folder was removed since"
        )
    wanted = board.exchange("bring", away)[0]
    if channel is not None:
        for rank in wanted:
            _bring(rank, board, channel, spool)
    board.exchange("brought", None)


def _bring(rank: int, board: Board, channel: Channel, spool: Spool) -> None:
    if board.rank == 0:
        board.tell(f"send/{rank}")
        for name, parts in groupby(_received(rank, channel, board), key=itemgetter(0)):
            spool.take(name, (chunk for _, chunk in parts))
    elif board.rank == rank:
        board.wait_for(f"send/{rank}", 0, "ask for what this one left")
        _send(rank, channel, spool)


def _send(rank: int, channel: Channel, spool: Spool) -> None:
    """Name and content of each chunk, and an empty name at the end."""
    for name, chunk in spool.export(rank):
        channel.send_bytes(name.encode(), 0)
        channel.send_bytes(chunk, 0)
    channel.send_bytes(b"", 0)


def _received(rank: int, channel: Channel, board: Board) -> Iterator[tuple[str, bytes]]:
    while name := channel.receive_bytes(rank):
        yield name.decode(), channel.receive_bytes(rank)
        board.step()
