"""What passes between ranks beside the board: a process group of torch.distributed."""

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from llem.distributed.board import ANSWER_S, Board
from llem.distributed.errand import within
from llem.distributed.launch import Launch


class Channel:
    """
    A process group: gloo for the hosts, and nccl for GPUs where torch has it.

    One that the program has made already is left as it is; a group of gloo is made beside it.

    Args:
        launch: How this process was launched.
        board: Where the ranks meet.
        heed: Called while something is waited for; it raises where there is an order to end.

    Raises:
        IncompleteRunError: The ranks cannot be connected.
    """

    def __init__(self, launch: Launch, board: Board, heed: Callable[[], None]) -> None:
        from torch import cuda, distributed

        self._board, self._heed = board, heed
        timeout = timedelta(seconds=board.timeout_s)
        self._group: Any = None
        self._owned = not distributed.is_initialized()
        self._has_nccl = self._owned and cuda.is_available() and distributed.is_nccl_available()
        if self._owned:
            self._done(
                "connected",
                lambda: distributed.init_process_group(
                    "cpu:gloo,cuda:nccl" if self._has_nccl else "gloo",
                    store=board.under("group"),
                    rank=launch.rank,
                    world_size=launch.world_size,
                    timeout=timeout,
                ),
            )
        else:
            self._group = self._done(
                "connected", lambda: distributed.new_group(backend="gloo", timeout=timeout)
            )

    def align(self, device: str | None) -> None:
        """
        Return at the same moment in every rank.

        *device* is a CUDA device of this rank, each of another GPU, that is waited for too. None:
        the hosts alone.
        """
        import torch

        def meet() -> None:
            torch.distributed.all_reduce(torch.zeros(1), group=self._group)
            if device is not None and self._has_nccl:
                torch.distributed.all_reduce(torch.zeros(1, device=device), group=self._group)
                torch.cuda.synchronize(device)

        self._done("aligned", meet)

    def send_number(self, number: float, to: int) -> None:
        """Send *number* to rank *to*."""
        import torch

        self._send(torch.tensor([number], dtype=torch.float64), to)

    def receive_number(self, sender: int) -> float:
        """Wait for a number from rank *sender*."""
        import torch

        return float(self._receive(torch.empty(1, dtype=torch.float64), sender).item())

    def send_bytes(self, content: bytes, to: int) -> None:
        """Send *content* to rank *to*."""
        import torch

        self.send_number(len(content), to)
        if content:
            self._send(torch.frombuffer(bytearray(content), dtype=torch.uint8), to)

    def receive_bytes(self, sender: int) -> bytes:
        """Wait for bytes from rank *sender*."""
        import torch

        size = int(self.receive_number(sender))
        if not size:
            return b""
        return bytes(self._receive(torch.empty(size, dtype=torch.uint8), sender).numpy().data)

    def _send(self, tensor: Any, to: int) -> None:
        from torch import distributed

        self._done("reached", lambda: distributed.send(tensor, to, self._group))

    def _receive(self, tensor: Any, sender: int) -> Any:
        from torch import distributed

        self._done("reached", lambda: distributed.recv(tensor, sender, self._group))
        return tensor

    def _done(self, what: str, call: Callable[[], Any]) -> Any:
        """What *call* returns; it can be waited for, and given up, while it blocks."""
        try:
            return within(self._board.timeout_s + ANSWER_S, call, self._heed)
        except Exception as fault:
            words = " ".join(str(fault).split())[:200]
            raise self._board.lost(
                f"the ranks cannot be {what}: {type(fault).__name__}: {words}; one is gone, or "
                "the network interface is not the right one (GLOO_SOCKET_IFNAME)"
            ) from fault

    def close(self) -> None:
        """Let go of what was made."""
        from torch import distributed

        with contextlib.suppress(Exception):
            distributed.destroy_process_group(self._group)
