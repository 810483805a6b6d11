"""What the sampling process runs: the order of its ticks, and what it reads."""

import itertools
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llem.measure import poller

PERIOD_S = 1 / 64
"""A power of two, as all times below, so that there is no rounding."""


@attrs.define
class FakeSource:
    """
    Tells the tick as its power, and takes its time.

    Attributes:
        costs_s: How long each reading takes; none, once they are used up. Unit: s.
        rows: Devices.
        now_s: The time, which reading and waiting let pass. Unit: s.
        begun_s: When each reading began. Unit: s.
        ended_s: When each reading ended. Unit: s.
        slowly: Whether each reading was one of the slow ones.
    """

    costs_s: Iterator[float] = attrs.field(factory=lambda: iter(()), converter=iter)
    rows: int = 1
    now_s: float = 1024.0
    begun_s: list[float] = attrs.field(factory=list)
    ended_s: list[float] = attrs.field(factory=list)
    slowly: list[bool] = attrs.field(factory=list)

    def read(self, slowly: bool, /) -> list[tuple[float, ...]]:
        self.begun_s.append(self.now_s)
        self.slowly.append(slowly)
        self.now_s += next(self.costs_s, 0.0)
        self.ended_s.append(self.now_s)
        return [
            (len(self.begun_s) - 1, row, 0, 0, 0, math.nan, math.nan, math.nan)
            for row in range(self.rows)
        ]

    def close(self) -> None: ...

    @property
    def times_s(self) -> list[float]:
        """The middle of each reading. Unit: s."""
        return [(a + b) / 2 for a, b in zip(self.begun_s, self.ended_s, strict=True)]


@attrs.frozen
class Written:
    """
    What stands in the file.

    Attributes:
        times_s: Time of each record. Unit: s.
        readings: Number of the reading in each record.
        stride: What `poller.poll` returned.
        sizes: Size of the file at each wait. Unit: byte.
        readies: Readings that were taken when it said that it is ready.
        told: The strides that it told of on the way.
    """

    times_s: list[float]
    readings: list[int]
    stride: int
    sizes: list[int]
    readies: list[int]
    told: list[int]


def polled(source: FakeSource, ticks: int, max_ticks: int = 10**6) -> Written:
    """Poll *source* until *ticks* readings are taken, on its own clock."""
    sizes: list[int] = []
    readies: list[int] = []
    told: list[int] = []

    with tempfile.TemporaryFile() as file:

        def wait(seconds: float) -> bool:
            sizes.append(os.fstat(file.fileno()).st_size)
            assert seconds >= 0
            is_over = len(source.begun_s) >= ticks - 1
            source.now_s += seconds / 2 if is_over else seconds
            return is_over

        with mock.patch.object(poller, "time", SimpleNamespace(monotonic=lambda: source.now_s)):
            stride = poller.poll(
                source,
                period_s=PERIOD_S,
                max_ticks=max_ticks,
                output=file.fileno(),
                ready=lambda: readies.append(len(source.begun_s)),
                thinned=told.append,
                wait=wait,
            )
        data = os.pread(file.fileno(), 10**9, 0)
    size = poller.TICK.size + source.rows * poller.ROW.size
    assert len(data) % size == 0
    times_s, readings = [], []
    for at in range(0, len(data), size):
        times_s += poller.TICK.unpack_from(data, at)
        rows = list(poller.ROW.iter_unpack(data[at + poller.TICK.size : at + size]))
        assert [row[1] for row in rows] == list(range(source.rows))
        assert len({row[0] for row in rows}) == 1
        readings.append(int(rows[0][0]))
    return Written(times_s, readings, stride, sizes, readies, told)


costs = st.lists(st.integers(0, 200).map(lambda part: part * PERIOD_S / 64), max_size=40)
"""How long readings take, up to three periods."""

ticks_and_most = st.integers(2, 9).flatmap(
    lambda most: st.tuples(st.integers(2, 15 * most), st.just(most))
)
"""Readings, and records kept of them at most: few doublings, so that times stay exact."""


@given(costs, st.integers(2, 60), st.integers(1, 3))
def test_every_reading_is_written(costs_s: list[float], ticks: int, rows: int) -> None:
    """A record is one time, the middle of the reading, and what was read of each device."""
    source = FakeSource(costs_s, rows)

    written = polled(source, ticks)

    assert written.times_s == source.times_s
    assert written.readings == list(range(ticks))
    assert (written.stride, written.readies) == (1, [1])


@given(costs, st.integers(3, 60))
@example([2.5 * PERIOD_S], 5)
def test_deadlines_are_absolute(costs_s: list[float], ticks: int) -> None:
    """
    Each reading begins at the first multiple of the period that is left after the one before.

    So a late one is left out, is not made up for, and does not move those after it.
    """
    source = FakeSource(costs_s)

    polled(source, ticks)

    origin_s = source.begun_s[0]
    for ended_s, tick, following in zip(
        source.ended_s, source.begun_s, source.begun_s[1:-1], strict=False
    ):
        done, left = (tick - origin_s) / PERIOD_S, (ended_s - origin_s) / PERIOD_S
        assert (following - origin_s) / PERIOD_S == max(done + 1, math.ceil(left))


@given(costs, ticks_and_most, st.integers(1, 2))
@example([], (30, 2), 1)
def test_bounded(costs_s: list[float], sizes: tuple[int, int], rows: int) -> None:
    """Never more than so many records, the first and the last among them, in order and whole."""
    ticks, max_ticks = sizes
    source = FakeSource(costs_s, rows)

    written = polled(source, ticks, max_ticks)

    size = poller.TICK.size + rows * poller.ROW.size
    assert max([*written.sizes, len(written.times_s) * size]) <= max_ticks * size
    assert written.readings == sorted(set(written.readings))
    assert (written.readings[0], written.readings[-1]) == (0, ticks - 1)
    assert written.times_s == [source.times_s[reading] for reading in written.readings]


@given(ticks_and_most)
def test_every_second_one_is_dropped(sizes: tuple[int, int]) -> None:
    """What is kept is as far apart as if only every *stride*-th had ever been taken."""
    ticks, max_ticks = sizes
    source = FakeSource()

    written = polled(source, ticks, max_ticks)

    kept = [(time_s - written.times_s[0]) / PERIOD_S for time_s in written.times_s]
    assert kept[:-1] == [i * written.stride for i in range(len(kept) - 1)]
    assert 0 < kept[-1] - kept[-2] <= written.stride
    assert math.log2(written.stride).is_integer()
    assert [1, *written.told] == [2**i for i in range(int(math.log2(written.stride)) + 1)]
    assert len(kept) >= min(ticks, max_ticks // 2 + 1)


def test_half_as_many_are_taken() -> None:
    """Once records are dropped there is no use in readings that would be dropped too."""
    source = FakeSource()
    polled(source, 26, 8)
    steps = [(after - before) / PERIOD_S for before, after in itertools.pairwise(source.begun_s)]
    assert steps[:-1] == 8 * [1] + 4 * [2] + 4 * [4] + 4 * [8] + 4 * [16]


def test_many_records_are_dropped_alike() -> None:
    """A file is gone through by parts, however many records it has."""
    written = polled(FakeSource(), 10_002, 10_001)
    assert written.stride == 2
    assert written.readings == [*range(0, 10_001, 2), 10_001]


def test_what_changes_slowly_is_read_now_and_then() -> None:
    """With the first reading, and then whenever so much time has passed."""
    source = FakeSource()
    polled(source, 100)
    slow_s = [
        time_s for time_s, is_slow in zip(source.begun_s, source.slowly, strict=True) if is_slow
    ]
    assert slow_s[0] == source.begun_s[0]
    every_s = math.ceil(poller.SLOW_PERIOD_S / PERIOD_S) * PERIOD_S
    assert {later - sooner for sooner, later in itertools.pairwise(slow_s)} == {every_s}


def run(
    *arguments: str | os.PathLike[str], options: tuple[str, ...] = ()
) -> tuple[int, str, bytes]:
    """Exit status, stderr and stdout of the sampling process where its stdin has ended already."""
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(
            [sys.executable, "-I", "-S", *options, poller.__file__, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr, os.pread(output.fileno(), 10**6, 0)


def test_it_begins_fast() -> None:
    """It imports nothing but the few modules that it needs, none of ours among them."""
    _, told, _ = run("files", "0.01", "100", os.devnull, options=("-X", "importtime"))
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", told, re.MULTILINE))
    assert {"ctypes", "struct"} <= imported
    heavy = {"llem", "numpy", "typing", "json", "subprocess", "re", "enum", "threading", "site"}
    assert not heavy & {name.partition(".")[0] for name in imported}


def test_the_protocol(tmp_path: Path) -> None:
    """It says that it is ready, and how it ended; records go to stdout."""
    counter = tmp_path / "energy_uj"
    counter.write_text("12345\n")
    code, told, data = run("files", "0.01", "100", counter)

    assert (code, told) == (0, "ready\nstride 1\n")
    size = poller.TICK.size + poller.ROW.size
    assert len(data) == 2 * size
    rows = [poller.ROW.unpack_from(data, at + poller.TICK.size) for at in (0, size)]
    assert [row[5] for row in rows] == [12345.0] * 2
    assert all(math.isnan(row[i]) for row in rows for i in (0, 6, 7))


@pytest.mark.parametrize("kind", ["files", "nvml"])
def test_what_cannot_be_read(kind: str, tmp_path: Path) -> None:
    """The reason stands in one line."""
    code, told, data = run(kind, "0.01", "100", tmp_path / "none")
    assert (code, data) == (1, b"")
    assert re.fullmatch(r"error .*none.*\n", told)


@pytest.mark.parametrize("uuid", ["GPU-here", "GPU-a,b", ",", "GPU-a\nb,"])
def test_whatever_a_uuid_holds(uuid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver is asked for it as it is."""
    asked: list[bytes] = []
    library = SimpleNamespace(
        nvmlInit_v2=lambda: 0, nvmlDeviceGetHandleByUUID=lambda name, _: asked.append(name) or 0
    )
    monkeypatch.setattr(poller.ctypes, "CDLL", lambda _: library)

    poller.source("nvml", ["library", f"{uuid},{poller.LEGACY},1"])

    assert asked == [uuid.encode()]


CHATTY = """
#include <stdio.h>
#include <unistd.h>

int nvmlInit_v2(void) {
    for (int i = 0; i < 10000; i++) {
        fputs("a driver that talks\\n", stderr);
        write(1, "and talks\\n", 10);
    }
    return 0;
}
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) { return 0; }
int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *celsius) { return 3; }
"""


def test_a_driver_that_talks(tmp_path: Path) -> None:
    """What it says is heard nowhere, and neither fills the pipe nor gets among the records."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path / "libchatty.so"
    command = [compiler, "-shared", "-fPIC", "-w", "-x", "c", "-o", os.fspath(library), "-"]
    subprocess.run(command, input=CHATTY, text=True, check=True)

    code, told, data = run("nvml", "0.01", "100", library, f"GPU-0,{poller.NONE},0")

    assert (code, told) == (0, "ready\nstride 1\n")
    assert len(data) == 2 * (poller.TICK.size + poller.ROW.size)


def test_what_nobody_expects_is_told() -> None:
    """A library that is not NVML has none of its functions."""
    code, told, data = run("nvml", "0.01", "100", "libc.so.6")
    assert (code, data) == (1, b"")
    assert re.fullmatch(r"error AttributeError\(.*nvmlInit_v2.*\)\n", told)


def test_file_without_a_number(tmp_path: Path) -> None:
    """A reading that fails is not a number, and the other files are read all the same."""
    paths = [tmp_path / name for name in ("empty", "text", "number")]
    for path, text in zip(paths, ("", "many\n", "7\n"), strict=True):
        path.write_text(text)
    source = poller.source("files", [os.fspath(path) for path in paths])

    counters = [row[5] for row in source.read(False)]
    source.close()

    assert [math.isnan(counter) for counter in counters] == [True, True, False]
    assert counters[2] == 7
