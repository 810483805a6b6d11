"""What ranks left on other machines, brought to rank 0."""

from llem.distributed.board import Board
from llem.distributed.channel import CHUNK, Channel
from llem.store import Spool


def bring_together(board: Board, channel: Channel, spool: Spool) -> None:
    """
    Have the folder of the run that rank 0 sees hold what every rank left.

    Nothing is sent where they share a file system. Every rank calls this.

    Raises:
        IncompleteRunError: A rank has not left anything, or cannot be reached.
        StoreWriteError: There is no room for it at rank 0.
    """
    board.exchange("left", None)
    away = sorted({*range(board.count)} - {*spool.indices()}) if board.rank == 0 else None
    for rank in board.exchange("bring", away)[0]:
        if board.rank == 0:
            board.tell(f"send/{rank}")
            _take(rank, channel, spool)
        elif board.rank == rank:
            board.wait_for(f"send/{rank}", 0, "ask for what this one left")
            _send(rank, channel, spool)
    board.exchange("brought", None)


def _send(rank: int, channel: Channel, spool: Spool) -> None:
    files = spool.files_of(rank)
    channel.send_number(len(files), 0)
    for name, size in files:
        encoded = name.encode()
        channel.send_number(len(encoded), 0)
        channel.send_bytes(encoded, 0)
        channel.send_number(size, 0)
        for chunk in spool.chunks(name, CHUNK):
            channel.send_bytes(chunk, 0)


def _take(rank: int, channel: Channel, spool: Spool) -> None:
    for _ in range(int(channel.receive_number(rank))):
        name = channel.receive_bytes(int(channel.receive_number(rank)), rank).decode()
        size = int(channel.receive_number(rank))
        sizes = [min(CHUNK, size - start) for start in range(0, size, CHUNK)]
        spool.take(name, (channel.receive_bytes(one, rank) for one in sizes))
