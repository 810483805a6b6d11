"""Ranks agree on what they run, and each knows what it is among the others."""

import json
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any, TypeVar

import attrs
import pytest

import llem.experiment.joint
from llem.codec import to_mapping
from llem.domain.conditions import Conditions
from llem.domain.config import ExperimentConfig, WarmupConfig
from llem.domain.energy import Sensor
from llem.domain.process import RawProcessResult
from llem.errors import AggregationError, BackendError
from llem.experiment.joint import Introduction, agree, introduce, reason_of, share
from llem.protocols import BackendInfo, Clock, ClockComparison, Device, Peers

T = TypeVar("T")

ONE, OTHER, THIRD = (f"{digit * 8}-0000-4000-8000-{digit * 12}" for digit in "123")
"""What tells running kernels from each other."""


@attrs.frozen
class Room:
    """Where ranks meet, each in a thread of its own."""

    barrier: threading.Barrier
    told: dict[tuple[str, int], str] = attrs.field(factory=dict)


@attrs.frozen
class Rank(Peers):
    """One of the ranks that meet in *room*."""

    room: Room
    rank: int

    @property
    def index(self) -> int:
        return self.rank

    @property
    def count(self) -> int:
        return self.room.barrier.parties

    def exchange(self, stage: str, value: Any, /) -> tuple[Any, ...]:
        assert (stage, self.rank) not in self.room.told
        self.room.told[stage, self.rank] = json.dumps(value)
        self.room.barrier.wait()
        return tuple(json.loads(self.room.told[stage, rank]) for rank in range(self.count))

    def compare_clocks(self, clock: Clock, /) -> ClockComparison:
        return ClockComparison(anchor=(datetime.now(UTC), clock.monotonic()))

    def align(self, device: str | None, /) -> None:
        self.room.barrier.wait()

    def hand_over(
        self, process: RawProcessResult, conditions: Conditions, timeseries: Any, /
    ) -> None:
        raise NotImplementedError

    def undisturbed(self) -> AbstractContextManager[None]:
        return nullcontext()

    def fail(self, reason: str, /) -> None:
        self.room.barrier.abort()


def together(count: int, do: Callable[[Peers], T]) -> list[T]:
    """What *do* comes to in each of *count* ranks, by rank."""
    room = Room(threading.Barrier(count, timeout=30))
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(do, [Rank(room, rank) for rank in range(count)]))


Told = dict[str, Any]


def refusals(*told: Told) -> list[str]:
    """What each of the ranks that tell *told* is refused with."""

    def refused(peers: Peers) -> str:
        with pytest.raises(AggregationError) as caught:
            agree(peers, **told[peers.index])
        return str(caught.value)

    return together(len(told), refused)


def telling(*, experiment_id: str = "e", llem_version: str = "1.0", **settings: Any) -> Told:
    config = to_mapping(ExperimentConfig(**settings))
    return {"experiment_id": experiment_id, "llem_version": llem_version, "config": config}


def test_the_experiment_is_that_of_rank_0() -> None:
    """Each has made up a name of its own."""
    told = together(3, lambda peers: agree(peers, **telling(experiment_id=f"e{peers.index}")))

    assert told == ["e0"] * 3


@pytest.mark.parametrize(
    ("odd", "what"),
    [
        (telling(n=10), "n 10 and not 30"),
        (telling(warmup=WarmupConfig(n_warmup=1)), "warmup.n_warmup 1 and not 5"),
        (telling(passthrough_kwargs={"a": [1]}), "passthrough_kwargs.a [1] and not None"),
        (telling(llem_version="2.0"), "llem 2.0 and not 1.0"),
        (telling(n=1, model="m"), "model m and not builtin:tiny-llama, n 1 and not 30"),
    ],
)
@pytest.mark.parametrize("place", [1, 2])
def test_a_rank_that_runs_something_else_is_named(odd: Told, what: str, place: int) -> None:
    """To every rank, with what it runs and what rank 0 does."""
    texts = refusals(*(odd if rank == place else telling() for rank in range(3)))

    text = f"rank {place} does not run what rank 0 does: {what}; start all ranks alike"
    assert texts == [text] * 3


def test_a_difference_that_has_no_name_is_one_of_the_hash() -> None:
    """An empty object has no setting in it, and is not the same as none."""
    told = [{**telling(), "config": {"model": "m", "x": x}} for x in ({}, None)]

    (text, _) = refusals(*told)

    assert re.match(r"rank 1 does not run what rank 0 does: hash \w{16} and not \w{16};", text)


def test_the_first_rank_that_differs_is_named() -> None:
    texts = refusals(telling(), telling(n=1), telling(n=2))

    assert all(text.startswith("rank 1 ") for text in texts)


@attrs.frozen(kw_only=True)
class One:
    """What one rank has to say of itself."""

    host: tuple[str, str] = ("node", ONE)
    devices: Sequence[Device] = ()
    own: Sequence[int] = ()
    info: BackendInfo | None = None


@pytest.fixture
def introduced(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Introduction]]:
    """Introduces ranks to each other, each on the machine that it says it is on."""
    here = threading.local()
    monkeypatch.setattr(llem.experiment.joint, "identity", lambda: here.host)

    def introduce_all(*ones: One) -> list[Introduction]:
        def act(peers: Peers) -> Introduction:
            one = ones[peers.index]
            here.host = one.host
            return introduce(peers, one.devices, one.own, one.info)

        return together(len(ones), act)

    return introduce_all


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """Has ranks share GPUs, each on the machine, and seeing those, that it says."""
    here = threading.local()
    monkeypatch.setattr(llem.experiment.joint, "identity", lambda: here.host)

    def share_all(*ones: tuple[tuple[str, str], str]) -> list[Any]:
        def act(peers: Peers) -> Any:
            here.host, seen = ones[peers.index]
            return share(peers, tuple(seen))

        return [None if one is None else "".join(one) for one in together(len(ones), act)]

    return share_all


A, B = ("a", ONE), ("b", OTHER)


@pytest.mark.parametrize(
    ("ranks", "shares"),
    [
        ([(A, "wxyz")], [None]),
        ([(A, "wx"), (A, "wx")], ["w", "x"]),
        ([(A, "wxyz"), (A, "wxyz")], ["wx", "yz"]),
        ([(A, "wxyz")] * 3, ["w", "x", "yz"]),
        ([(A, "w")] * 2, ["w", "w"]),
        ([(A, "wx")] * 3, ["w", "w", "x"]),
        # Each knows its own, or was shown its own, or is alone on its machine.
        ([(A, ""), (A, "")], [None, None]),
        ([(A, "w"), (A, "x")], [None, None]),
        ([(A, "wx"), (B, "wx")], [None, None]),
        ([(A, "wx"), (B, "yz"), (A, "wx"), (B, "yz")], ["w", "y", "x", "z"]),
        # One that knows its own leaves the others' to them.
        ([(A, "wx"), (A, ""), (A, "wx")], ["w", None, "x"]),
    ],
)
def test_gpus_that_nobody_names_are_shared(shared, ranks, shares) -> None:
    """Among the ranks of a machine, in their order; all are metered by one."""
    assert shared(*ranks) == shares


def gpus(*uuids: str) -> list[Device]:
    sensor = Sensor.NVML_TOTAL_ENERGY
    return [Device(index=i, uuid=u, name="GPU", sensor=sensor) for i, u in enumerate(uuids)]


def package(index: int = 0) -> Device:
    return Device(index=index, uuid="package-0", name="CPU", sensor=Sensor.RAPL, scope="package")


def names(told: Sequence[Introduction]) -> list[list[str]]:
    return [[device.uuid for device in one.devices] for one in told]


def test_devices_are_numbered_over_all_ranks(introduced) -> None:
    """Each number once, without holes, whatever each rank has; all else of them stays."""
    own = [gpus("a", "b"), [], [*gpus("c"), package(1)], gpus("d")]

    told = introduced(*(One(devices=devices) for devices in own))

    assert [[device.index for device in one.devices] for one in told] == [[0, 1], [], [2, 3], [4]]
    assert [[attrs.evolve(device, index=0) for device in one.devices] for one in told] == [
        [attrs.evolve(device, index=0) for device in devices] for devices in own
    ]


def test_one_machine_has_one_name_for_its_domains(introduced) -> None:
    """So that its energy is counted once, however many ranks meter it."""
    told = introduced(*[One(devices=[package()])] * 3)

    assert names(told) == [["package-0"]] * 3
    assert [one.node for one in told] == ["node"] * 3


def test_several_machines_tell_their_domains_apart(introduced) -> None:
    """GPUs have names that no other one has, and keep them."""
    told = introduced(
        One(host=("a", ONE), devices=[*gpus("x"), package(1)]),
        One(host=("a", ONE), devices=[package()]),
        One(host=("b", OTHER), devices=[*gpus("y"), package(1)]),
    )

    assert names(told) == [["x", "a/package-0"], ["a/package-0"], ["y", "b/package-0"]]
    assert [one.node for one in told] == ["a", "a", "b"]


def test_machines_of_one_name_are_told_apart(introduced) -> None:
    """By their kernels; one of a name of its own keeps it."""
    told = introduced(
        One(host=("a", ONE), devices=[package()]),
        One(host=("a", OTHER), devices=[package()]),
        One(host=("a", OTHER), devices=[package()]),
        One(host=("b", THIRD), devices=[package()]),
    )

    assert [one.node for one in told] == ["a-11111111", "a-22222222", "a-22222222", "b"]
    assert names(told) == [[f"{one.node}/package-0"] for one in told]


def test_containers_on_one_machine_share_its_domains(introduced) -> None:
    """Each has a name of its own, and the kernel and the counters of the machine."""
    told = introduced(
        One(host=("pod-0", ONE), devices=[package()]),
        One(host=("pod-1", ONE), devices=[package()]),
    )

    assert names(told) == [["package-0"]] * 2
    assert [one.node for one in told] == ["pod-0"] * 2


def test_containers_on_several_machines_are_named_by_the_first_of_each(introduced) -> None:
    told = introduced(
        One(host=("pod-0", ONE), devices=[package()]),
        One(host=("pod-2", OTHER), devices=[package()]),
        One(host=("pod-1", ONE), devices=[package()]),
        One(host=("pod-0", OTHER), devices=[package()]),
    )

    nodes = ["pod-0", "pod-2", "pod-0", "pod-2"]
    assert [one.node for one in told] == nodes
    assert names(told) == [[f"{node}/package-0"] for node in nodes]


def test_machines_that_do_not_tell_their_kernel_go_by_their_name(introduced) -> None:
    told = introduced(
        *(One(host=(name, ""), devices=[package()], own=[i]) for i, name in enumerate("aab"))
    )

    assert names(told) == [["a/package-0"], ["a/package-0"], ["b/package-0"]]
    assert [one.processes for one in told] == [{0, 1}, {0, 1}, {2}]


@pytest.mark.parametrize("other", [("b", OTHER), ("a", OTHER), ("b", ONE)])
def test_processes_are_those_of_the_own_machine(introduced, other: tuple[str, str]) -> None:
    """A number on another machine, or in another container, is that of another process."""
    told = introduced(
        One(host=("a", ONE), own=[1, 2]),
        One(host=other, own={2, 3}),
        One(host=("a", ONE), own=[4]),
    )

    assert [one.processes for one in told] == [{1, 2, 4}, {2, 3}, {1, 2, 4}]


def on(device: str, *uuids: str) -> One:
    return One(info=BackendInfo(device=device, device_name="GPU", device_uuids=uuids))


def test_ranks_on_gpus_of_their_own_may_meet_there(introduced) -> None:
    """Each on the device that its engine names."""
    told = introduced(on("cuda:0", "a", "b"), on("cuda:2", "c"), on("cuda:0", "d"))

    assert [one.align_on for one in told] == ["cuda:0", "cuda:2", "cuda:0"]


@pytest.mark.parametrize(
    "other",
    [on("cuda:0", "b"), on("cuda:0", "x", "a"), on("cuda:0"), on("cpu", "x"), One()],
    ids=["the same", "one of two", "none", "not cuda", "no engine"],
)
def test_ranks_that_share_a_gpu_or_have_none_do_not_meet_there(introduced, other: One) -> None:
    """One rank is enough, for all of them."""
    told = introduced(on("cuda:0", "a"), on("cuda:1", "b"), other)

    assert [one.align_on for one in told] == [None] * 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (BackendError("the model\n  is gone"), "the model\n  is gone"),
        (SystemExit("enough"), "left with exit status enough before the run was over"),
        (SystemExit(), "left with exit status 0 before the run was over"),
        (ValueError("a\n  b"), "ValueError: a b"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_reason_is_told_to_who_did_not_see_it(error: BaseException, reason: str) -> None:
    """Errors of ours speak for themselves, those of others need their name."""
    assert reason_of(error) == reason
