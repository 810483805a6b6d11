"""Ranks that no launcher looks after: they find out by themselves what became of the others."""

import socket
import subprocess
import sys
import time

import pytest

from llem.store import ResultStore

pytestmark = pytest.mark.torch

IN_TIME_S = 45
"""Time in which all is found out that is not left to the timeout, a minute and a half."""

KILLED = "killed, out of memory, or cut off; see its own output"


@pytest.fixture
def apart(launcher):
    """Run ranks, and give what each said, once they have all ended in time."""

    def run(count: int, *, in_time: bool = True, **plan):
        began = time.monotonic()
        ended = launcher.apart(count, **{"timeout_s": 90, "silent_s": 4} | plan)
        assert time.monotonic() - began < IN_TIME_S or not in_time
        return ended[-1].said

    return run


@pytest.mark.parametrize(
    ("place", "last"),
    [
        ("before join", "being launched"),
        ("after join", "the start of the run"),
        ("before clock", "the begin of the measured window"),
        ("after clocks", "comparing clocks"),
        ("run", "the measured window"),
        ("before end", "the measured window"),
        ("before left", "comparing clocks"),
    ],
)
def test_who_was_killed_is_named(apart, root, place, last) -> None:
    """With where it was last, and in far less than the timeout."""
    said = apart(3, faults=[[1, place, "kill"]])

    assert sorted(said) == [0, 2]
    for text in said.values():
        assert text.startswith(f"IncompleteRunError: rank 1: no sign of life, last at {last}")
        assert KILLED in text
    assert len(ResultStore(root)) == 0


@pytest.mark.parametrize("place", ["after join", "after clocks", "run"])
def test_the_host_of_the_board_was_killed(apart, place) -> None:
    """What they meet at goes with it."""
    said = apart(3, faults=[[0, place, "kill"]])

    assert sorted(said) == [1, 2]
    for text in said.values():
        assert "the machine of rank 0, is gone" in text or text.startswith(
            "IncompleteRunError: rank 0: no sign of life"
        )


def test_the_host_of_the_board_says_why_it_leaves(apart) -> None:
    """It stays until the others have heard it."""
    said = apart(3, faults=[[0, "before end", "raise"]])

    told = "IncompleteRunError: rank 0: RuntimeError: the engine broke"
    assert said[0].startswith("RuntimeError: the engine broke")
    assert [said[1][: len(told)], said[2][: len(told)]] == [told] * 2


@pytest.mark.parametrize("place", ["after clocks", "run"])
def test_who_hangs_is_named(apart, place) -> None:
    """It gives signs of life, and is not called dead."""
    said = apart(3, faults=[[1, place, "hang"]], timeout_s=8, in_time=False)

    for rank in (0, 2):
        assert said[rank].startswith("IncompleteRunError: rank 1 did not come to ")
        assert "killed" not in said[rank]


def test_who_was_told_to_end_blames_nobody(apart) -> None:
    """The others are in the middle of their work, and alive."""
    said = apart(2, faults=[[1, "run", "terminate"]], slower={"0": 50}, n=12)

    assert said[1].startswith("IncompleteRunError: rank 1: stopped by the launcher")
    assert said[0].startswith("IncompleteRunError: rank 1: stopped by the launcher")


def test_one_who_does_not_keep_is_noticed(apart) -> None:
    """At once, and by what it did."""
    said = apart(2, keep_not=[1])

    assert said[1] == "done"
    assert said[0].startswith(
        "IncompleteRunError: rank 1: left the block of its Ranks without keep(): every rank must "
        "call it; what they measured is kept in"
    )


def test_rank_0_hangs_when_it_makes_the_result(apart, root) -> None:
    """The others wait no longer than ranks wait for each other, and say whom they waited for."""
    said = apart(2, faults=[[0, "before finish", "hang"]], timeout_s=8)

    assert said[1].startswith(
        "IncompleteRunError: rank 0 did not keep the result of all, nor get on with it, within 8 s"
    )
    assert "what they measured is kept in" in said[1]
    assert len(ResultStore(root)) == 0


@pytest.mark.parametrize("has_groups", [True, False])
def test_ranks_may_meet_again_and_again(launcher, root, has_groups) -> None:
    """The store of a program's group goes with that, and one of llem's own is met at again."""
    program = launcher.folder / "program.py"
    program.write_text(PROGRAM)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(program), str(root), *(["groups"] if has_groups else [])],
            env={**launcher.environment, **meeting, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "01"
    ]
    ends = [launcher.end(rank) for rank in ranks]

    assert [end.status for end in ends] == [0, 0], ends[0].out + ends[1].out
    assert len(ResultStore(root)) == 5


PROGRAM = """
import sys, torch.distributed, llem
from llem.domain.config import EnergyConfig, ExperimentConfig

config = ExperimentConfig(n=4, device="cpu", energy=EnergyConfig(backend=None))
for _ in range(5):
    if "groups" in sys.argv:
        torch.distributed.init_process_group("gloo")
    with llem.Ranks(sys.argv[1], timeout_s=60) as ranks:
        with llem.Experiment(config, peers=ranks) as run:
            run.record(input_tokens=3, output_tokens=4, latency_s=0.1, ttft_s=0.05)
        ranks.keep()
    if "groups" in sys.argv:
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
"""
