"""What passes between ranks beside the board: a process group of torch.distributed."""

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from llem.distributed.launch import Launch
from llem.errors import IncompleteRunError


class Channel:
    """
    A process group: gloo for the hosts, and nccl for GPUs where torch has it.

    One that the program has made already is left as it is; a group of gloo is made beside it.

    Args:
        launch: How this process was launched.
        store: The store that the ranks meet at.
        timeout_s: How long ranks wait for each other. Unit: s.

    Raises:
        IncompleteRunError: The ranks cannot be connected.
    """

    def __init__(self, launch: Launch, store: Any, timeout_s: float) -> None:
        from torch import cuda, distributed

        timeout = timedelta(seconds=timeout_s)
        self._group: Any = None
        self._owned = not distributed.is_initialized()
        self._has_nccl = self._owned and cuda.is_available() and distributed.is_nccl_available()
        with _told("connected"):
            if not self._owned:
                self._group = distributed.new_group(backend="gloo", timeout=timeout)
                return
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if self._has_nccl else "gloo",
                store=store,
                rank=launch.rank,
                world_size=launch.world_size,
                timeout=timeout,
            )

    def align(self, device: str | None) -> None:
        """
        Return at the same moment in every rank.

        *device* is a CUDA device of this rank, each of another GPU, that is waited for too. None:
        the hosts alone.
        """
        import torch

        with _told("aligned"):
            torch.distributed.all_reduce(torch.zeros(1), group=self._group)
            if device is not None and self._has_nccl:
                torch.distributed.all_reduce(torch.zeros(1, device=device), group=self._group)
                torch.cuda.synchronize(device)

    def send_number(self, number: float, to: int) -> None:
        """Send *number* to rank *to*."""
        import torch

        with _told("reached"):
            torch.distributed.send(torch.tensor([number], dtype=torch.float64), to, self._group)

    def receive_number(self, sender: int) -> float:
        """Wait for a number from rank *sender*."""
        import torch

        number = torch.empty(1, dtype=torch.float64)
        with _told("reached"):
            torch.distributed.recv(number, sender, self._group)
        return float(number.item())

    def send_bytes(self, content: bytes, to: int) -> None:
        """Send *content* to rank *to*."""
        import torch

        self.send_number(len(content), to)
        with _told("reached"):
            if content:
                chunk = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                torch.distributed.send(chunk, to, self._group)

    def receive_bytes(self, sender: int) -> bytes:
        """Wait for bytes from rank *sender*."""
        import torch

        chunk = torch.empty(int(self.receive_number(sender)), dtype=torch.uint8)
        with _told("reached"):
            if len(chunk):
                torch.distributed.recv(chunk, sender, self._group)
        return bytes(chunk.numpy().data)

    def close(self) -> None:
        """Let go of what was made."""
        from torch import distributed

        with contextlib.suppress(Exception):
            distributed.destroy_process_group(self._group)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as fault:
        words = " ".join(str(fault).split())[:200]
        raise IncompleteRunError(
            f"the ranks cannot be {what}: {type(fault).__name__}: {words}; one is gone, or the "
            "network interface is not the right one (GLOO_SOCKET_IFNAME)"
        ) from fault
