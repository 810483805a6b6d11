"""Many writers of one name at once: nothing lost, nothing overwritten, nothing seen in part."""

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llem.store import ResultStore
from llem.testing import small_result, small_table

NAME = "gpt2_pytorch_2026-03-13T14-21"
PROCESSES, PUTS = 4, 25

WRITER = """
import os, sys, time
from llem.store import ResultStore
from llem.testing import small_result, small_table

root, go, first, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
print("ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.001)
table = small_table()
for number in range(first, first + count):
    key = ResultStore(root).put(small_result(total_tokens=number), timeseries=table).key
    print(key, flush=True)
"""


@pytest.fixture
def writers(tmp_path):
    """Starts processes that put numbered results, all at once; says how to let them go."""
    go, started = tmp_path / "go", []

    def start(root, number, puts):
        for first in range(0, number * puts, puts):
            command = [sys.executable, "-c", WRITER, str(root), str(go), str(first), str(puts)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdout.readline() == "ready\n"
        return started, go.touch

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def read_everything(store, seen):
    """Whatever is listed can be read whole, and never changes."""
    for key in store:
        result = store.get(key)
        assert result == small_result(
            total_tokens=result.total_tokens, timeseries="timeseries.parquet"
        )
        if key not in seen:
            assert store.timeseries(key) == small_table()
        assert seen.setdefault(key, result.total_tokens) == result.total_tokens


def assert_whole(store, keys, count):
    """*keys* has each suffix up to *count*, and each result is there once."""
    expected = [NAME, *(f"{NAME}_{number}" for number in range(1, count))]
    assert len(keys) == count
    assert set(keys) == set(expected)
    assert list(store) == expected
    assert sorted(store.get(key).total_tokens for key in store) == list(range(count))
    found = store.verify()
    assert (found.checked, found.faults, found.unverified) == (count, (), ())


def test_processes_put_one_name_while_another_reads(tmp_path, writers):
    """Each put has a key of its own, without holes, and a reader never meets a part of one."""
    store, seen, listings = ResultStore(tmp_path / "root"), {}, 0
    started, go = writers(store.root, PROCESSES, PUTS)

    go()
    while any(process.poll() is None for process in started):
        read_everything(store, seen)
        listings += 1

    assert [process.returncode for process in started] == [0] * PROCESSES
    assert listings > 1
    keys = [line.strip() for process in started for line in process.stdout]
    assert_whole(store, keys, PROCESSES * PUTS)
    assert all(store.get(key).total_tokens == number for key, number in seen.items())
    assert list((store.root / ".llem-tmp").iterdir()) == []


def test_threads_put_one_name(tmp_path):
    store, table = ResultStore(tmp_path / "root"), small_table()
    barrier = threading.Barrier(PROCESSES)

    def put(first):
        barrier.wait()
        numbers = range(first, first + PUTS)
        return [store.put(small_result(total_tokens=n), timeseries=table).key for n in numbers]

    with ThreadPoolExecutor(PROCESSES) as pool:
        parts = pool.map(put, range(0, PROCESSES * PUTS, PUTS))
        keys = [key for part in parts for key in part]

    assert_whole(store, keys, PROCESSES * PUTS)


def test_a_killed_writer_leaves_whole_results(tmp_path, writers):
    """What a writer leaves when it dies is not listed, does not hide the rest, and is put past."""
    store = ResultStore(tmp_path / "root")
    started, go = writers(store.root, 3, 100_000)

    go()
    for process, wanted in zip(started, (5, 10, 15), strict=True):
        deadline = time.monotonic() + 20
        while len(store) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()

    told = [line.strip() for process in started for line in process.stdout if line.endswith("\n")]
    assert len(told) >= 12
    assert set(told) <= set(store)
    found = store.verify()
    assert found.checked == len(store)
    assert {fault.kind for fault in found.faults} <= {"claim", "staging"}
    assert store.repair().left == ()
    assert store.verify().faults == ()
    assert store.put(small_result()).key in store
