"""What passes between ranks beside the board: process groups of torch.distributed."""

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from llem.distributed.board import ANSWER_S, Board
from llem.distributed.errand import GivenUpError, within
from llem.errors import IncompleteRunError

CLOSE_S = 5.0
"""Longest time that letting go of the groups may take. Unit: s."""


class Channel:
    """
    Process groups of their own: gloo for the hosts, and nccl for GPUs where torch has it.

    They are none of those that a program sees, so that it, or an engine inside of it, may make its
    own before, meanwhile or never.

    Args:
        board: Where the ranks meet.
        heed: Called while something is waited for; it raises where there is an order to end.

    Raises:
        IncompleteRunError: The ranks cannot be connected.
    """

    def __init__(self, board: Board, heed: Callable[[], None]) -> None:
        from torch.distributed import ProcessGroupGloo

        self._board = board
        self._heed = board.watch if board.can_watch else heed
        # What is given up here gives up by itself only later: nccl would end the process for it.
        self._timeout = timedelta(seconds=board.timeout_s + 2 * ANSWER_S)
        self._gloo: Any = self._done(
            "connected",
            lambda: ProcessGroupGloo(board.under("gloo"), board.rank, board.count, self._timeout),
        )
        self._nccl: Any = None
        self._has_tried_nccl = False

    def align(self, device: str | None) -> str | None:
        """
        Return at the same moment in every rank.

        Args:
            device: A CUDA device of this rank, each of another GPU, that is waited for too. None,
                in every rank: the hosts alone.

        Returns:
            Why the GPUs cannot be waited for, where that was just found out.
        """
        import torch

        why = None
        if device is not None:
            # Which one "cuda" is, is to be asked here: a thread has a current device of its own.
            own = device if ":" in device else f"{device}:{torch.cuda.current_device()}"
            why = self._align_gpus(torch.device(own))
        self._done("aligned", lambda: self._gloo.allreduce([torch.zeros(1)]).wait())
        return why

    def _align_gpus(self, gpu: Any) -> str | None:
        """
        The first time all find out whether they can; later they do, or do without.

        Where nccl fails in some and hangs in others, these end the run once their time is over.
        """
        import torch

        def meet() -> None:
            self._nccl.allreduce([torch.zeros(1, device=gpu)]).wait()
            torch.cuda.synchronize(gpu)

        if self._has_tried_nccl:
            if self._nccl is not None:
                self._done("aligned", meet)
            return None
        self._has_tried_nccl = True
        reasons = self._board.exchange("align", self._tried(meet))
        said = next(filter(None, reasons), None)
        if said is not None:
            self._nccl = None
        return said

    def _tried(self, meet: Callable[[], None]) -> str | None:
        """What went wrong with nccl. None: nothing."""

        def first() -> None:
            from torch.distributed import ProcessGroupNCCL

            options = ProcessGroupNCCL.Options()
            options._timeout = self._timeout  # noqa: SLF001  # there is no other way
            board = self._board
            self._nccl = ProcessGroupNCCL(board.under("nccl"), board.rank, board.count, options)
            meet()

        try:
            within(self._board.timeout_s, first, self._heed)
        except GivenUpError as fault:
            # What hangs in it would end the process later.
            raise self._board.lost(f"the GPUs cannot be aligned: {fault} of nccl") from None
        except Exception as fault:
            if _is_known(fault):
                raise
            return f"{type(fault).__name__}: {' '.join(str(fault).split())[:200]}"
        return None

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
        self._done("reached", lambda: self._gloo.send([tensor], to, 0).wait())

    def _receive(self, tensor: Any, sender: int) -> Any:
        self._done("reached", lambda: self._gloo.recv([tensor], sender, 0).wait())
        return tensor

    def _done(self, what: str, call: Callable[[], Any]) -> Any:
        """What *call* returns; it can be waited for, and given up, while it blocks."""
        try:
            return within(self._board.timeout_s + ANSWER_S, call, self._heed)
        except Exception as fault:
            if _is_known(fault):
                raise
            words = " ".join(str(fault).split())[:200]
            raise self._board.lost(
                f"the ranks cannot be {what}: {type(fault).__name__}: {words}; one is gone, or "
                "the network interface is not the right one (GLOO_SOCKET_IFNAME)"
            ) from fault

    def close(self) -> None:
        """Let go of what was made, before Python ends: threads of it would abort the process."""

        def let_go() -> None:
            if self._nccl is not None:
                self._nccl.shutdown()
            self._gloo = self._nccl = None

        with contextlib.suppress(Exception):
            within(CLOSE_S, let_go, lambda: None)


def _is_known(fault: Exception) -> bool:
    """Whether *fault* tells what became of the other ranks, and not only that a call failed."""
    return isinstance(fault, IncompleteRunError) and not isinstance(fault, GivenUpError)
