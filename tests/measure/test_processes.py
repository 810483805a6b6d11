"""Who computes on a GPU, and who of them is a stranger."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llem.domain.conditions import GpuProcess
from llem.measure.processes import context_held, foreign, gpu_processes, own_processes

HERE, THERE = "GPU-here", "GPU-there"


def process(pid: int, uuid: str = HERE, memory_mb: float | None = 100.0) -> GpuProcess:
    return GpuProcess(uuid=uuid, pid=pid, memory_mb=memory_mb)


# What the driver says


def test_processes_of_each_gpu(driver) -> None:
    """Process ID and memory, in MiB, of the GPUs that are asked for, in their order."""
    driver.set(count=3, gpu0__uuid=HERE, gpu1__uuid="GPU-other", gpu2__uuid=THERE)
    driver.set(gpu0__processes="7:512,8:3", gpu1__processes="9:1", gpu2__processes="10:20")

    assert gpu_processes([THERE, HERE]) == (
        process(10, THERE, 20.0),
        process(7, memory_mb=512.0),
        process(8, memory_mb=3.0),
    )
    assert driver.times_shut_down == 1


def test_nobody_computes(driver) -> None:
    """That is known, rather than unknown."""
    driver.set(gpu0__uuid=HERE)

    assert gpu_processes([HERE]) == ()


def test_a_driver_that_does_not_answer(no_driver) -> None:
    assert gpu_processes([HERE]) is None


def test_a_gpu_that_does_not_exist(driver) -> None:
    """The connection is closed all the same."""
    assert gpu_processes([HERE]) is None
    assert driver.times_shut_down == 1


def test_a_driver_that_does_not_say(driver) -> None:
    """As in some virtual machines."""
    driver.set(gpu0__uuid=HERE, gpu0__nvmlDeviceGetComputeRunningProcesses_v3=3)

    assert gpu_processes([HERE]) is None


def test_a_gpu_that_does_not_say_hides_no_other(driver) -> None:
    driver.set(count=2, gpu0__uuid=HERE, gpu0__nvmlDeviceGetComputeRunningProcesses_v3=3)
    driver.set(gpu1__uuid=THERE, gpu1__processes="7:1")

    assert gpu_processes([HERE, THERE]) == (process(7, THERE, 1.0),)


def test_memory_that_is_not_known(driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """None, rather than 16 EiB."""
    import pynvml

    told = pynvml.nvmlStructToFriendlyObject(pynvml.c_nvmlProcessInfo_v3_t(pid=7))
    told.usedGpuMemory = None
    monkeypatch.setattr(pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda _: [told])
    driver.set(gpu0__uuid=HERE)

    assert gpu_processes([HERE]) == (process(7, memory_mb=None),)


# Who is who


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """Process IDs of a child and of its child, with names that are hard to read."""
    code = (
        "import subprocess, sys\n"
        "open('/proc/self/comm', 'w').write('a) R 1 (')\n"
        "nap = [sys.executable, '-c', 'import sys; sys.stdin.read()']\n"
        "child = subprocess.Popen(nap)\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
        "child.wait()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with child:
        yield child.pid, int(child.stdout.readline())
        child.stdin.close()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_own_are_ancestors_and_descendants(family: tuple[int, int]) -> None:
    """This process, its children's children, and its parents, but not the first process."""
    own = own_processes()

    assert {os.getpid(), *family} <= own
    assert (os.getppid() in own) is (os.getppid() > 1)
    assert not {0, 1} & (own - {os.getpid()})


def tree(folder: Path, **parents: int) -> str:
    """A /proc of processes p<ID> with these parents."""
    for name, parent in parents.items():
        (folder / name[1:]).mkdir()
        (folder / name[1:] / "stat").write_text(f"{name[1:]} (py) S {parent} 1 1 0 -1\n")
    return str(folder)


@pytest.fixture
def fifty(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is 50, a child of 40."""
    monkeypatch.setattr(os, "getpid", lambda: 50)
    monkeypatch.setattr(os, "getppid", lambda: 40)


def test_siblings_are_strangers(fifty, tmp_path: Path) -> None:
    """Neither a parent's other children are own, nor the rest of the machine."""
    proc = tree(
        tmp_path, p1=0, p30=1, p40=30, p41=40, p50=40, p51=50, p52=51, p53=50, p60=1, p61=60
    )
    (tmp_path / "meminfo").write_text("")
    (tmp_path / "99").mkdir()
    (tmp_path / "98").mkdir()
    (tmp_path / "98" / "stat").write_bytes(b"\xff")

    assert own_processes(proc) == {30, 40, 50, 51, 52, 53}


def test_a_system_without_proc(fifty, tmp_path: Path) -> None:
    """This process and its parent."""
    assert own_processes(str(tmp_path / "none")) == {40, 50}


def test_the_first_process_is_not_an_ancestor(monkeypatch, tmp_path: Path) -> None:
    """Everything descends from it."""
    monkeypatch.setattr(os, "getpid", lambda: 50)
    monkeypatch.setattr(os, "getppid", lambda: 1)

    assert own_processes(tree(tmp_path, p1=0, p50=1, p60=1)) == {50}


def test_the_first_process_of_a_container(monkeypatch, tmp_path: Path) -> None:
    """It may be this one, which has no parent."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "getppid", lambda: 0)

    assert own_processes(tree(tmp_path, p1=0, p5=1)) == {1, 5}


def test_a_circle_of_parents_ends(fifty, tmp_path: Path) -> None:
    """Process IDs are given out again while they are read."""
    assert own_processes(tree(tmp_path, p40=50, p50=40)) == {40, 50}


@pytest.mark.parametrize(
    ("pids", "held"), [(None, None), ([], False), ([7], None), ([7, 50], True), ([50], True)]
)
def test_whether_a_context_is_held(pids: list[int] | None, held: bool | None) -> None:
    """Strangers alone may be ourselves in a container, so nothing can be told."""
    listed = None if pids is None else [process(pid) for pid in pids]

    assert context_held(listed, {50}) is held


@pytest.mark.parametrize("holds_context", [True, False])
def test_own_processes_are_not_foreign(holds_context: bool) -> None:
    """Where one is listed, everyone else on that GPU is a stranger."""
    listed = [process(50), process(7), process(51), process(8)]

    assert foreign(listed, {50, 51}, holds_context) == (process(7), process(8))


def test_without_a_context_everyone_is_foreign() -> None:
    assert foreign([process(7)], {50}, holds_context=False) == (process(7),)


def test_one_stranger_is_ourselves_in_a_container() -> None:
    """The one with most memory. Two of them are one too many."""
    small, large, unknown = process(7), process(8, memory_mb=9.0e4), process(9, memory_mb=None)

    assert foreign([small], {50}, holds_context=True) == ()
    assert foreign([small, large, unknown], {50}, holds_context=True) == (small, unknown)
    assert foreign([unknown], {50}, holds_context=True) == ()
    assert foreign([unknown, process(7, memory_mb=0.5)], {50}, holds_context=True) == (unknown,)


def test_one_on_each_gpu_is_ourselves_in_a_container() -> None:
    """A model may run on several."""
    listed = [process(7), process(8, THERE), process(9, THERE, 1.0)]

    assert foreign(listed, {50}, holds_context=True) == (process(9, THERE, 1.0),)


def test_a_stranger_alone_on_another_gpu_is_one() -> None:
    """Where this run is listed anywhere the process IDs match, and nobody else is taken for it."""
    listed = [process(50), process(8, THERE)]

    assert foreign(listed, {50}, holds_context=True) == (process(8, THERE),)


def test_nobody_is_foreign_where_nobody_is() -> None:
    assert foreign([], {50}, holds_context=True) == ()
