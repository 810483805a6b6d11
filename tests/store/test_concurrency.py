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
PROCESSES, THREADS, PUTS = 16, 4, 200

WRITER = """
import os, sys, time
from llem.store import MemoryStore, ResultStore
from llem.testing import small_result, small_table

root, go, first, count, processes = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
table = small_table()
MemoryStore().put(small_result(), timeseries=table)
children = []
for number in range(1, processes):
    if child := os.fork():
        children.append(child)
    else:
        first, children = first + number * count, []
        break
os.write(1, b"ready\\n")
while not os.path.exists(go):
    time.sleep(0.001)
for number in range(first, first + count):
    key = ResultStore(root).put(small_result(total_tokens=number), timeseries=table).key
    os.write(1, (key + "\\n").encode())
sys.exit(any(os.waitpid(child, 0)[1] for child in children))
"""


@pytest.fixture
def writers(tmp_path):
    """Starts processes that put numbered results, all at once; says how to let them go."""
    go, started = tmp_path / "go", []

    def start(root, first, puts, forks=1):
        words = map(str, (root, go, first, puts, forks))
        command = [sys.executable, "-c", WRITER, *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert [process.stdout.readline() for _ in range(forks)] == ["ready\n"] * forks
        return process

    yield start, go.touch
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
    start, go = writers
    process = start(store.root, 0, PUTS, PROCESSES)
    keys = []
    listener = threading.Thread(target=lambda: keys.extend(map(str.strip, process.stdout)))

    go()
    listener.start()
    while process.poll() is None:
        read_everything(store, seen)
        listings += 1

    listener.join()
    assert process.returncode == 0
    assert listings > 1
    assert_whole(store, keys, PROCESSES * PUTS)
    assert all(store.get(key).total_tokens == number for key, number in seen.items())
    assert list((store.root / ".llem-tmp").iterdir()) == []


def test_processes_put_while_another_removes_and_repairs(tmp_path, writers):
    """A repair meets no leftover where nobody died, and what is there or was removed is all."""
    store, removed = ResultStore(tmp_path / "root"), []
    start, go = writers
    store.check_writable()
    process = start(store.root, 0, 25, THREADS)

    go()
    while process.poll() is None:
        repaired = store.repair()
        assert (repaired.moved, repaired.left) == ((), ())
        for key in [*store][:3]:
            removed.append(store.get(key).total_tokens)
            store.remove(key)

    kept = [store.get(key).total_tokens for key in store]
    assert process.returncode == 0
    assert removed
    assert sorted(kept + removed) == list(range(THREADS * 25))
    assert list((store.root / ".llem-tmp").iterdir()) == []


def test_threads_put_one_name(tmp_path):
    store, table = ResultStore(tmp_path / "root"), small_table()
    barrier = threading.Barrier(THREADS)

    def put(first):
        barrier.wait()
        numbers = range(first, first + 25)
        return [store.put(small_result(total_tokens=n), timeseries=table).key for n in numbers]

    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(put, range(0, THREADS * 25, 25))
        keys = [key for part in parts for key in part]

    assert_whole(store, keys, THREADS * 25)


def test_a_killed_writer_leaves_whole_results(tmp_path, writers):
    """What a writer leaves when it dies is not listed, does not hide the rest, and is put past."""
    store = ResultStore(tmp_path / "root")
    start, go = writers
    started = [start(store.root, first, 100_000) for first in range(0, 300_000, 100_000)]

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
