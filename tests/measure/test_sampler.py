"""Sampling in a process of its own, which ends whatever becomes of this one."""

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llem.errors import MeterError
from llem.measure import poller, sampler
from llem.measure.sampler import Recording, Sampler

PATIENCE_S = 20.0
"""Time that a busy machine may take for what is done at once."""

RECORD_BYTES = poller.TICK.size + poller.ROW.size


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A file that is sampled."""
    file = tmp_path / "energy_uj"
    file.write_text("5000\n")
    return file


@pytest.fixture
def start(counter: Path) -> Iterator[Callable[..., Sampler]]:
    """Starts a sampler of the file. Those that the test does not stop are stopped after it."""
    started = []

    def start(period_s: float = 0.005) -> Sampler:
        started.append(Sampler("files", [os.fspath(counter)], devices=1, period_s=period_s))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.stop()


def state(pid: int) -> tuple[str, int]:
    """The letter of a process' state, and its parent. Z and 0 where there is none."""
    try:
        letter, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return "Z", 0
    return letter, int(parent)


def is_alive(pid: int) -> bool:
    # The parent of an orphan may leave it a zombie.
    return state(pid)[0] not in "ZX"


def children(parent: int) -> set[int]:
    """The sampling processes of the process *parent*."""
    found = set()
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            pid = int(folder.name) if folder.name.isdecimal() else 0
            if pid and state(pid)[1] == parent and is_alive(pid):
                command = (folder / "cmdline").read_bytes().split(b"\0")
                found |= {pid} if os.fsencode(poller.__file__) in command else set()
    return found


def own_child() -> int:
    """The one sampling process of this one."""
    (pid,) = children(os.getpid())
    return pid


def wait_until(condition: Callable[[], object]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.005)


def size_of(sampling: Sampler) -> int:
    """How much was recorded until now. Unit: byte."""
    return os.fstat(sampling._file.fileno()).st_size


def wait_for_ticks(sampling: Sampler, more: int = 5) -> None:
    """Return once *more* ticks are recorded than now."""
    size = size_of(sampling) + more * RECORD_BYTES
    wait_until(lambda: size_of(sampling) >= size)


def assert_whole(recording: Recording, ticks: int = 2) -> None:
    """At least so many samples, in order, each with what stands in the file."""
    assert len(recording.times_s) >= ticks
    assert (np.diff(recording.times_s) > 0).all()
    assert set(recording.rows["counter"].ravel()) == {5000.0}


def test_what_is_recorded(start) -> None:
    """Each tick has one time and one row a device, and what was not read is not a number."""
    sampling = start()
    wait_for_ticks(sampling)
    recording = sampling.stop()

    assert_whole(recording, 6)
    assert recording.rows.shape == (len(recording.times_s), 1)
    assert np.isnan(recording.rows["power_w"]).all()
    assert (recording.stride, recording.notes) == (1, ())


def test_row_type_is_what_the_process_packs() -> None:
    """Both sides have the same layout."""
    names = np.dtype(sampler.row_type())
    packed = poller.ROW.pack(1.5, -2, 3, 4, 5, 6.5, 7.5, 8.5)
    assert len(packed) == names.itemsize
    assert np.frombuffer(packed, names)[0].item() == (1.5, -2, 3, 4, 5, 6.5, 7.5, 8.5)


def test_samples_on_both_sides(start) -> None:
    """However short the window, a sample is taken before it and another after it."""
    sampling = start(period_s=10.0)
    begin_s = time.monotonic()
    end_s = time.monotonic()
    recording = sampling.stop()

    assert len(recording.times_s) == 2
    assert recording.times_s[0] <= begin_s <= end_s <= recording.times_s[-1]


def test_in_a_process_of_its_own(start) -> None:
    """It is there while sampling, away from the terminal's Ctrl-C, and gone once that ends."""
    sampling = start()
    pid = own_child()
    assert os.getsid(pid) == pid
    sampling.stop()
    assert state(pid) == ("Z", 0)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, MemoryError])
def test_interrupted_while_it_starts(start, monkeypatch, fault: type[BaseException]) -> None:
    """Nothing stays behind where `start` is left by an exception."""

    def interrupt(*args: object) -> None:
        raise fault

    files = open_files()
    monkeypatch.setattr(sampler, "_readable", interrupt)
    with pytest.raises(fault):
        start()
    assert children(os.getpid()) == set()
    assert open_files() == files


def test_nothing_leaks(start) -> None:
    """No file, process or thread is left over."""
    start().stop()
    before = open_files(), threading.active_count()
    for _ in range(3):
        start().stop()
    gc.collect()
    assert (open_files(), threading.active_count()) == before
    assert children(os.getpid()) == set()


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_stopped_twice(start) -> None:
    """The second time there is nothing more."""
    sampling = start()
    sampling.stop()
    again = sampling.stop()
    assert (len(again.times_s), again.notes) == (0, ())


def test_among_many_open_files(start) -> None:
    """A program may have more files open than select() can watch."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2048:
        pytest.skip("needs leave to open 2048 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
    files = [os.dup(0) for _ in range(1100)]
    try:
        recording = start().stop()
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert_whole(recording)
    assert recording.notes == ()


def test_killed_process(start) -> None:
    """What it sampled until then is kept, and a note says so."""
    sampling = start()
    wait_for_ticks(sampling)
    os.kill(own_child(), signal.SIGKILL)
    recording = sampling.stop()

    assert_whole(recording, 5)
    assert recording.notes == ("the sampling process ended early: killed by signal 9",)
    assert children(os.getpid()) == set()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGSTOP])
def test_stride_of_a_process_that_did_not_end(start, monkeypatch, ending: signal.Signals) -> None:
    """What it dropped before is known, and so how far apart its samples are."""
    monkeypatch.setattr(sampler, "MAX_ROWS", 8)
    monkeypatch.setattr(sampler, "STOP_TIMEOUT_S", 0.1)
    sampling = start()
    wait_for_thinning(sampling)
    os.kill(own_child(), ending)
    recording = sampling.stop()

    assert_thinned(recording)
    (note,) = recording.notes
    assert note.endswith("killed by signal 9") or "did not end within" in note


def wait_for_thinning(sampling: Sampler) -> None:
    """Return once records were dropped, and a time after that."""
    most = 0

    def has_shrunk() -> bool:
        nonlocal most
        most = max(most, size_of(sampling))
        return size_of(sampling) < most

    wait_until(has_shrunk)
    time.sleep(0.05)


def assert_thinned(recording: Recording) -> None:
    """Every *stride*-th tick of 0.005 s was kept, and some were not."""
    assert recording.stride in {2**i for i in range(1, 20)}
    assert len(recording.times_s) >= 4
    ticks = np.median(np.diff(recording.times_s)) / 0.005
    assert ticks == pytest.approx(recording.stride, rel=0.5)


def test_process_held_up(start) -> None:
    """Where it did not run there is a gap, and after that it goes on as before."""
    sampling = start()
    wait_for_ticks(sampling)
    os.kill(own_child(), signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(own_child(), signal.SIGCONT)
    wait_for_ticks(sampling)
    recording = sampling.stop()

    assert_whole(recording, 10)
    gaps_s = np.diff(recording.times_s)
    assert gaps_s.max() > 0.25
    # Ticks that were missed are not made up for.
    assert len(gaps_s) < 10 + (recording.times_s[-1] - recording.times_s[0] - 0.25) / 0.005
    assert recording.notes == ()


def test_process_that_does_not_end(start, monkeypatch) -> None:
    """It keeps the run from ending for a bounded time only, and nobody is blamed alone."""
    monkeypatch.setattr(sampler, "STOP_TIMEOUT_S", 0.1)
    sampling = start()
    wait_for_ticks(sampling)
    os.kill(own_child(), signal.SIGSTOP)
    recording = sampling.stop()

    assert_whole(recording, 5)
    (note,) = recording.notes
    assert note.startswith(
        "the sampling process did not end within 0.1 s: it was stopped or held up, or the driver "
        "hangs; see `dmesg`"
    )
    assert children(os.getpid()) == set()


def test_full_disk(start) -> None:
    """What was written is kept as far as it is whole, and a note says what happened."""
    sampling, pid = start(), own_child()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state(pid)[0] == "T")
    room = size_of(sampling) + 10 * RECORD_BYTES + RECORD_BYTES // 2
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (room, most))
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: children(os.getpid()) == set())
    recording = sampling.stop()

    assert_whole(recording)
    assert len(recording.times_s) == room // RECORD_BYTES
    (note,) = recording.notes
    assert note == "the sampling process ended early: [Errno 27] File too large"


def test_no_room_for_samples(counter, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(counter.parent / "none"))
    with pytest.raises(MeterError, match=r"samples cannot be kept.*set TMPDIR to a folder"):
        Sampler("files", [os.fspath(counter)], devices=1, period_s=0.01).start()


def test_samples_have_no_name(start, monkeypatch, tmp_path: Path) -> None:
    """A program that dies leaves no file."""
    folder = tmp_path / "samples"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(folder))
    start()
    assert list(folder.iterdir()) == []


@pytest.fixture(params=["", "none", "true", "frozen", "windows"])
def no_interpreter(request: pytest.FixtureRequest, monkeypatch, tmp_path: Path) -> None:
    """A program that cannot start a Python of its own."""
    executables = {"": "", "none": os.fspath(tmp_path / "none"), "true": "/bin/true"}
    match request.param:
        case "frozen":
            monkeypatch.setattr(sys, "frozen", True, raising=False)
        case "windows":
            monkeypatch.setattr(sampler, "os", SimpleNamespace(**{**vars(os), "name": "nt"}))
        case other:
            monkeypatch.setattr(sys, "executable", executables[other])


@pytest.mark.usefixtures("no_interpreter")
def test_thread_where_there_is_no_process(start) -> None:
    """A thread samples, a note says so and why, and it ends."""
    threads, files = threading.active_count(), open_files()
    sampling = start()
    assert threading.active_count() == threads + 1
    assert children(os.getpid()) == set()
    wait_for_ticks(sampling)
    begin_s = time.monotonic()
    recording = sampling.stop()

    assert_whole(recording, 6)
    assert recording.times_s[0] < begin_s < recording.times_s[-1]
    (note,) = recording.notes
    assert note.startswith("samples were taken by a thread, which falls behind while Python is bus")
    assert note.split(": ", 1)[1]
    assert (threading.active_count(), open_files()) == (threads, files)


@pytest.fixture(params=["echo a warning >&2", "sleep 0.2"])
def wrapped(request: pytest.FixtureRequest, monkeypatch, tmp_path: Path) -> None:
    """An interpreter that something is done before, as by a loader that complains."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\n{request.param}\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", os.fspath(script))


@pytest.mark.usefixtures("wrapped")
def test_what_is_said_before_it_is_ready(start) -> None:
    """It is passed over: the process samples."""
    sampling = start()
    wait_for_ticks(sampling)
    recording = sampling.stop()

    assert_whole(recording, 6)
    assert (recording.stride, recording.notes) == (1, ())


def test_process_that_says_something_else(counter, monkeypatch, tmp_path: Path) -> None:
    """A thread samples then, and the note has the last of what it said."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho first >&2\necho no such module >&2\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", os.fspath(script))
    sampling = Sampler("files", [os.fspath(counter)], devices=1, period_s=0.01)

    sampling.start()

    (note,) = sampling.stop().notes
    assert note.endswith("the sampling process did not begin: no such module")


@pytest.fixture
def threaded(monkeypatch) -> None:
    monkeypatch.setattr(sys, "executable", "")


def test_neither_process_nor_thread(counter) -> None:
    """What cannot be sampled at all is an error of ours that says why."""
    files = open_files()
    with pytest.raises(MeterError, match=r"the sensor cannot be sampled: .*No such file.*none"):
        Sampler("files", [f"{counter.parent}/none"], devices=1, period_s=0.01).start()
    assert open_files() == files
    assert children(os.getpid()) == set()


@pytest.mark.usefixtures("threaded")
@pytest.mark.parametrize("method", ["__init__", "read"])
@pytest.mark.parametrize("fault", [OSError, AttributeError])
def test_thread_that_cannot_take_the_first_sample(
    start, monkeypatch, method: str, fault: type[Exception]
) -> None:
    """As with a process there is nothing to begin with, and the error says why."""

    def fail(*args: object) -> None:
        raise fault("broken")

    threads, files = threading.active_count(), open_files()
    monkeypatch.setattr(poller.Files, method, fail)
    with pytest.raises(MeterError, match="the sensor cannot be sampled: broken"):
        start()
    wait_until(lambda: threading.active_count() == threads)
    monkeypatch.undo()
    gc.collect()
    assert open_files() == files


@pytest.mark.usefixtures("threaded")
def test_thread_that_hangs_at_the_first_sample(start, monkeypatch) -> None:
    """As with a process it is not waited for, and ends where it ever gets an answer."""
    monkeypatch.setattr(sampler, "START_TIMEOUT_S", 0.05)
    threads, released, read = threading.active_count(), threading.Event(), poller.Files.read

    def hang(self: poller.Files, slowly: bool) -> list[tuple[float, ...]]:
        released.wait(PATIENCE_S)
        return read(self, slowly)

    monkeypatch.setattr(poller.Files, "read", hang)
    with pytest.raises(MeterError, match=r"the sensor has not answered for 0\.05 s"):
        start()
    released.set()
    wait_until(lambda: threading.active_count() == threads)


@pytest.mark.usefixtures("threaded")
def test_fault_in_the_thread(start, monkeypatch) -> None:
    """It does not die in silence, nor does it take with it what it had."""
    threads = threading.active_count()
    sampling = start()
    wait_for_ticks(sampling)

    def fail(*args: object) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(poller.Files, "read", fail)
    wait_until(lambda: threading.active_count() == threads)
    recording = sampling.stop()
    assert_whole(recording, 5)
    assert recording.notes[1:] == ("sampling ended early: broken",)


@pytest.mark.usefixtures("threaded")
def test_stride_of_a_thread_that_failed(start, monkeypatch) -> None:
    """What it dropped before is known."""

    def fail(*args: object) -> None:
        raise ZeroDivisionError("broken")

    monkeypatch.setattr(sampler, "MAX_ROWS", 8)
    threads = threading.active_count()
    sampling = start()
    wait_for_thinning(sampling)
    monkeypatch.setattr(poller.Files, "read", fail)
    wait_until(lambda: threading.active_count() == threads)

    assert_thinned(sampling.stop())


@pytest.mark.usefixtures("threaded")
def test_hanging_thread(start, monkeypatch) -> None:
    """A reading that never returns does not keep the run from ending, and spoils no file later."""
    monkeypatch.setattr(sampler, "STOP_TIMEOUT_S", 0.05)
    threads = threading.active_count()
    hangs, released, read = threading.Event(), threading.Event(), poller.Files.read

    def hang(self: poller.Files, slowly: bool) -> list[tuple[float, ...]]:
        if hangs.is_set():
            released.wait(PATIENCE_S)
        return read(self, slowly)

    monkeypatch.setattr(poller.Files, "read", hang)
    sampling = start()
    wait_for_ticks(sampling)
    hangs.set()
    recording = sampling.stop()
    with tempfile.TemporaryFile() as later:
        released.set()
        wait_until(lambda: threading.active_count() == threads)
        assert os.fstat(later.fileno()).st_size == 0
    assert_whole(recording, 5)
    assert recording.notes[1].startswith("the sampling thread did not end within 0.05 s: ")


PROGRAM = """
import os, signal, sys, time
from llem.measure.sampler import Sampler
sampler = Sampler("files", sys.argv[1:], devices=1, period_s=0.005)
sampler.start()
"""


@contextlib.contextmanager
def running(counter: Path, then: str) -> Iterator[subprocess.Popen[str]]:
    """A program that samples, says so by its first line, and does *then*."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{PROGRAM}print('sampling', flush=True)\n{then}", counter],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as program:
        try:
            assert program.stdout.readline() == "sampling\n", program.stderr.read()
            yield program
        finally:
            # With all that it has forked.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "then",
    [
        "time.sleep(600)",
        "os.fork()\ntime.sleep(600)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)",
    ],
    ids=["alone", "with a fork that holds the pipe", "stubborn"],
)
def test_killed_parent(counter, then: str) -> None:
    """The sampling process follows its parent, even where others hold the pipe between them."""
    with running(counter, then) as program:
        (pid,) = children(program.pid)
        program.kill()
        wait_until(lambda: not is_alive(pid))


@pytest.mark.parametrize(
    ("then", "code"), [("", 0), ("sys.exit(3)", 3), ("raise ValueError", 1), ("os._exit(4)", 4)]
)
def test_parent_that_does_not_stop_it(counter, then: str, code: int) -> None:
    """A program that ends without a word ends its sampling too."""
    with running(counter, f"input()\n{then}") as program:
        (pid,) = children(program.pid)
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.wait(PATIENCE_S) == code
        wait_until(lambda: not is_alive(pid))


def test_interrupted_from_the_terminal(counter) -> None:
    """Ctrl-C reaches the program alone, which still has every sample when it stops."""
    then = """
try:
    print("waiting", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(0.1)
    caught_s = time.monotonic()
    recording = sampler.stop()
    after = recording.times_s > caught_s
    print(after.any(), recording.notes, set(recording.rows["counter"].ravel().tolist()))
"""
    with running(counter, then) as program:
        (pid,) = children(program.pid)
        assert program.stdout.readline() == "waiting\n"
        os.killpg(program.pid, signal.SIGINT)
        said, complaints = program.communicate(timeout=PATIENCE_S)
        assert (said, complaints) == ("True () {5000.0}\n", "")
        assert not is_alive(pid)


def test_fork_that_stops(counter) -> None:
    """A process that was forked meanwhile gets nothing by stopping, and ends nothing."""
    then = """
pid = os.fork()
recording = None if pid else sampler.stop()
if not pid:
    os._exit(len(recording.times_s) + 10 * len(recording.notes))
print(os.waitpid(pid, 0)[1])
time.sleep(0.1)
forked_s = time.monotonic()
recording = sampler.stop()
print((recording.times_s > forked_s).any(), (recording.times_s < forked_s).any())
print(recording.notes)
"""
    with running(counter, then) as program:
        said, _ = program.communicate(timeout=PATIENCE_S)
        assert said == "0\nTrue True\n()\n"


def test_fork_that_lives_on(counter) -> None:
    """A process that was forked meanwhile, as by a data loader, does not hold up the end."""
    then = """
if os.fork() == 0:
    time.sleep(600)
recording = sampler.stop()
print(recording.notes)
"""
    with running(counter, then) as program:
        assert program.stdout.readline() == "()\n"
