"""What passes between ranks. A stand-in takes the place of nccl, which needs a GPU a rank."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from llem.distributed.board import Board  # noqa: E402, it needs torch
from llem.distributed.channel import Channel  # noqa: E402

pytestmark = pytest.mark.torch


class Nccl:
    """Notes what it was asked for, by rank; fails in the rank *broken*."""

    made: list["Nccl"]
    broken: int | None = None

    def __init__(self, _store: Any, rank: int, count: int, options: Any) -> None:
        self.rank, self.count, self.timeout = rank, count, options._timeout
        self.met: list[str] = []
        self.made.append(self)

    Options = SimpleNamespace

    def allreduce(self, tensors: list[str]) -> SimpleNamespace:
        if self.rank == self.broken:
            raise RuntimeError("Duplicate GPU\n detected")
        self.met += tensors
        return SimpleNamespace(wait=lambda: None)

    def shutdown(self) -> None:
        self.met.append("shut down")


@pytest.fixture
def nccl(monkeypatch):
    """A torch with nccl and two GPUs, the current one of which is the second."""
    made = type("FreshNccl", (Nccl,), {"made": []})
    zeros = torch.zeros
    monkeypatch.setattr(torch.distributed, "ProcessGroupNCCL", made, raising=False)
    monkeypatch.setattr(torch, "zeros", lambda n, device=None: str(device) if device else zeros(n))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda gpu: made.made[0].met.append(f"{gpu} ok"))
    own = threading.main_thread()
    current = lambda: 1 if threading.current_thread() is own else 0  # noqa: E731
    monkeypatch.setattr(torch.cuda, "current_device", current)
    return made


def channels(count: int) -> list[Callable[[], Channel]]:
    store = torch.distributed.HashStore()
    return [
        lambda rank=rank: Channel(Board(store, rank, count, 20.0, lambda: None), lambda: None)
        for rank in range(count)
    ]


def in_each(count: int, do: Callable[[Channel], Any]) -> list[Any]:
    """What *do* comes to in each of *count* ranks."""

    def act(make: Callable[[], Channel]) -> Any:
        channel = make()
        try:
            return do(channel)
        finally:
            channel.close()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(act, channels(count)))


@pytest.mark.parametrize(("device", "gpu"), [("cuda:3", "cuda:3"), ("cuda", "cuda:1")])
def test_gpus_are_waited_for_by_nccl(nccl, device, gpu) -> None:
    """Which one is meant is found out where the program is, and a thread is elsewhere."""
    (channel,) = [make() for make in channels(1)]

    assert [channel.align(device) for _ in range(2)] == [None, None]
    channel.close()

    (group,) = nccl.made
    assert (group.rank, group.count) == (0, 1)
    assert group.met == [gpu, f"{gpu} ok"] * 2 + ["shut down"]
    # Else it would end the process before the rank can say what went wrong.
    assert group.timeout.total_seconds() > 20 + 30


def test_hosts_alone_need_no_nccl(nccl) -> None:
    assert in_each(2, lambda channel: channel.align(None)) == [None, None]
    assert nccl.made == []


def test_all_do_without_nccl_where_one_has_to(nccl) -> None:
    """Each is told why, once; the hosts are aligned all the same."""
    nccl.broken = 1

    told = in_each(2, lambda channel: [channel.align("cuda:0"), channel.align("cuda:0")])

    assert told == [["RuntimeError: Duplicate GPU detected", None]] * 2
    assert {one.rank: one.met.count("cuda:0") for one in nccl.made} == {0: 1, 1: 0}


def test_bytes_arrive_as_they_were_sent() -> None:
    """None of them, one, and more than a message holds."""
    contents = [b"", b"\x00", bytes(range(256)) * 10_000]

    def talk(channel: Channel) -> list[bytes]:
        if channel._board.rank == 0:
            return [channel.receive_bytes(1) for _ in contents]
        for content in contents:
            channel.send_bytes(content, 0)
        return []

    assert in_each(2, talk) == [contents, []]
