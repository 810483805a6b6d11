"""Idle power, measured and kept."""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llem.domain.energy import BaselineMethod, Sensor
from llem.errors import MeterError, ResultValidationError
from llem.measure import ReplayMeter, baseline
from llem.measure.baseline import (
    Baseline,
    BaselineCache,
    IdlePower,
    baseline_key,
    default_cache_folder,
    idle_power,
    measure_baseline,
)
from llem.protocols import Device, Edge, Samples

NAN = math.nan
NOW = datetime(2026, 1, 1, 0, 1, 40, tzinfo=UTC)
KEPT = Baseline(power_w=(50.5, 30.0), timestamp=NOW, duration_s=10.0, had_context=True)
WRITERS, STORES = 4, 50


def idle(clock, *powers: float, uuid: str = "GPU") -> ReplayMeter:
    """A meter whose devices draw *powers* for two minutes."""
    devices = [
        Device(index=i, uuid=f"{uuid}-{i}", name="Idle", sensor=Sensor.REPLAY, period_s=1.0)
        for i in range(len(powers))
    ]
    columns = np.tile(powers, (120, 1))
    return ReplayMeter(
        devices,
        Samples(times_s=np.arange(120), power_w=columns, temperature_c=columns),
        clock=clock,
    )


# Measured


def test_power_of_each_device(clock) -> None:
    measured = measure_baseline(idle(clock, 50, 30), 10, clock, had_context=True)

    assert measured.power_w == pytest.approx((50, 30))
    assert measured.total_w == pytest.approx(80)
    assert measured.duration_s == 10
    assert measured.timestamp == NOW
    assert measured.had_context is True


def test_device_without_a_figure(clock) -> None:
    """A device that was not read has None, and so has the total."""
    measured = measure_baseline(idle(clock, 50, NAN), 10, clock)

    assert measured.power_w == (pytest.approx(50), None)
    assert measured.total_w is None
    assert measured.had_context is None


def test_no_devices(clock) -> None:
    assert measure_baseline(idle(clock), 10, clock).total_w is None


@pytest.mark.parametrize("counters_j", [(None,), (None, None, None)])
def test_a_meter_with_other_counters_than_devices(clock, counters_j: tuple[None, ...]) -> None:
    """It is an error that names the meter, which is left as it was."""
    meter = idle(clock, 50, 30)
    meter.mark = lambda: Edge(time_s=clock.monotonic(), counters_j=counters_j)

    with pytest.raises(MeterError, match=r"meter replay gave . counters for 2 devices"):
        measure_baseline(meter, 10, clock)
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()


@pytest.mark.parametrize("times_s", [np.arange(120)[::-1], np.zeros(120)])
def test_samples_whose_times_do_not_rise(clock, times_s: np.ndarray) -> None:
    """No power is made of them."""
    meter = idle(clock, 50)
    samples = attrs.evolve(meter._samples, times_s=clock.monotonic() + times_s)
    meter.stop = lambda: samples

    with pytest.raises(MeterError, match="meter replay gave times of samples that do not rise"):
        measure_baseline(meter, 10, clock)


def test_what_fails_first_is_what_is_told(clock) -> None:
    """Not that the meter then does not stop either."""
    meter = idle(clock, 50)
    meter.mark = lambda: None
    meter.stop = lambda: 1 / 0

    with pytest.raises(MeterError, match="meter replay gave no edge"):
        measure_baseline(meter, 10, clock)


def test_nothing_in_no_time(clock) -> None:
    """A window without length has no mean."""
    assert measure_baseline(idle(clock, 50), 0, clock).power_w == (None,)


def test_sampling_ends_with_the_wait(clock, monkeypatch) -> None:
    """Interrupted, the meter is stopped, and can start again."""
    meter = idle(clock, 50)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(clock, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_baseline(meter, 10, clock)
    with pytest.raises(MeterError, match="start it first"):
        meter.stop()


def test_age() -> None:
    """From the start of the window, negative where it lies ahead."""
    assert KEPT.age_s(NOW + timedelta(minutes=2)) == 120
    assert KEPT.age_s(NOW - timedelta(seconds=1)) == -1


@pytest.mark.parametrize("power_w", [-1.0, NAN, math.inf])
def test_power_that_no_device_has(power_w: float) -> None:
    """Whoever says so."""
    with pytest.raises(ResultValidationError, match=r"power_w\[0\] must be finite and >= 0"):
        attrs.evolve(KEPT, power_w=(power_w,))


# Kept


@pytest.fixture
def cache(tmp_path: Path) -> BaselineCache:
    """A folder that does not exist yet."""
    return BaselineCache(tmp_path / "cache" / "baselines")


def file_of(cache: BaselineCache, key: str = "key") -> Path:
    """Where the baseline of *key* lies, which is kept now."""
    assert cache.store(key, KEPT) is None
    (path,) = cache.folder.iterdir()
    return path


@given(
    st.text("key", max_size=3),
    st.builds(
        Baseline,
        power_w=st.lists(st.none() | st.floats(0, 1e5), max_size=8).map(tuple),
        timestamp=st.datetimes(timezones=st.just(UTC)),
        duration_s=st.floats(0, 1e5),
        had_context=st.none() | st.booleans(),
    ),
)
def test_what_was_kept_is_what_is_loaded(
    tmp_path_factory: pytest.TempPathFactory, key: str, kept: Baseline
) -> None:
    """To the last digit."""
    cache = BaselineCache(tmp_path_factory.mktemp("cache"))

    assert cache.store(key, kept) is None
    assert cache.load(key) == kept


def test_each_key_has_a_baseline_of_its_own(cache: BaselineCache) -> None:
    """The latest."""
    older, other = attrs.evolve(KEPT, power_w=(1.0,)), attrs.evolve(KEPT, power_w=(2.0,))
    for key, kept in (("key", older), ("other", other), ("key", KEPT)):
        assert cache.store(key, kept) is None

    assert (cache.load("key"), cache.load("other"), cache.load("third")) == (KEPT, other, None)
    assert sorted(len(path.name) for path in cache.folder.iterdir()) == [21, 21]


def test_a_folder_that_does_not_exist_keeps_nothing(cache: BaselineCache) -> None:
    """Looking into it does not make it."""
    assert cache.load("key") is None
    assert not cache.folder.exists()


def test_any_truncation_is_no_baseline(cache: BaselineCache) -> None:
    """However much of the file is there."""
    path = file_of(cache)
    content = path.read_bytes()

    for size in range(len(content)):
        path.write_bytes(content[:size])
        assert cache.load("key") is None, size


def changed(**members: object) -> Callable[[bytes], bytes]:
    return lambda content: orjson.dumps(orjson.loads(content) | members)


@pytest.mark.parametrize(
    "spoil",
    [
        changed(key="another"),
        changed(power_w=[-1.0]),
        changed(power_w=["50"]),
        changed(power_w=[True]),
        changed(power_w=50.0),
        changed(duration_s=None),
        changed(timestamp="2026-01-01T00:00:00"),
        changed(timestamp="yesterday"),
        changed(timestamp=1767225700),
        changed(had_context=1),
        changed(more=1),
        lambda content: content.replace(b"50.5", b"NaN"),
        lambda content: content.replace(b"50.5", b"1e999"),
        lambda content: content.replace(b'"power_w"', b'"power"'),
        lambda content: content.replace(b'"key":"key",', b""),
        lambda content: content + b"x",
        lambda content: content + b" " * 2**16 + b"x",
        lambda content: b"[" * 100_000,
        lambda content: b"[]",
        lambda content: b'"key"',
        lambda content: b"null",
        lambda content: b"\xff\xfe\x00",
        lambda content: os.urandom(500),
    ],
)
def test_what_is_no_baseline_is_none(cache: BaselineCache, spoil) -> None:
    """And never an error; the next one takes its place."""
    path = file_of(cache)
    path.write_bytes(spoil(path.read_bytes()))

    assert cache.load("key") is None
    assert cache.store("key", KEPT) is None
    assert cache.load("key") == KEPT


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_none(cache: BaselineCache, make: Callable[[Path], None]) -> None:
    """A FIFO is not waited for."""
    path = file_of(cache)
    path.unlink()
    make(path)

    assert cache.load("key") is None


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """It is no error. The note says where, why, and what to do."""
    (tmp_path / "file").write_text("")
    cache = BaselineCache(tmp_path / "file" / "baselines")

    note = cache.store("key", KEPT)

    assert note == (
        f"idle power could not be kept in {cache.folder}: Not a directory; "
        "set XDG_CACHE_HOME to a folder that can be written"
    )
    assert cache.load("key") is None


def test_a_folder_that_is_no_path_is_told() -> None:
    cache = BaselineCache(Path("no\0path"))

    assert "null byte" in cache.store("key", KEPT)
    assert cache.load("key") is None


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_nothing_is_left_of_what_failed(
    cache: BaselineCache, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    """What was kept before is still there, and nothing beside it."""
    path = file_of(cache)

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, failing, fail)
    later = attrs.evolve(KEPT, power_w=(1.0,))
    if isinstance(error, OSError):
        assert "No space left on device" in cache.store("key", later)
    else:
        with pytest.raises(KeyboardInterrupt):
            cache.store("key", later)

    assert list(cache.folder.iterdir()) == [path]
    assert cache.load("key") == KEPT


def test_bytes_come_before_the_name(cache: BaselineCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut leaves the old baseline or the new one."""
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: steps.append(os.fstat(fd).st_size) or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda *names: steps.append(names) or replace(*names))

    path = file_of(cache)

    size, (unfinished, final) = steps
    assert size == path.stat().st_size
    assert (os.path.dirname(unfinished), final) == (str(cache.folder), str(path))


def test_files_get_the_mode_that_the_umask_asks_for(cache: BaselineCache) -> None:
    before = os.umask(0o027)
    try:
        assert file_of(cache).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


WRITER = """
import os, sys, time
from datetime import UTC, datetime
from llem.measure.baseline import Baseline, BaselineCache

folder, go, number, stores = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
print("ready", flush=True)
while not os.path.exists(go):
    time.sleep(0.001)
mine = Baseline(
    power_w=(float(number),) * 1000, timestamp=datetime(2026, 1, 1, tzinfo=UTC), duration_s=1.0
)
for _ in range(stores):
    note = BaselineCache(folder).store("key", mine)
    if note:
        sys.exit(note)
"""


@pytest.fixture
def writers(cache: BaselineCache, tmp_path: Path):
    """Processes that keep baselines of 1000 devices under one key, and what lets them go."""
    go, started = tmp_path / "go", []

    def start(stores: int) -> tuple[list[subprocess.Popen], Callable[[], None]]:
        for number in range(WRITERS):
            command = [sys.executable, "-c", WRITER, cache.folder, go, str(number), str(stores)]
            started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        for process in started:
            assert process.stdout.readline() == "ready\n"
        return started, go.touch

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def assert_whole(found: Baseline | None) -> None:
    assert found is not None
    assert len(found.power_w) == 1000
    assert len(set(found.power_w)) == 1


def test_writers_at_the_same_time_leave_one_whole_file(cache: BaselineCache, writers) -> None:
    """Whoever reads meanwhile gets all that one of them wrote."""
    processes, let_go = writers(STORES)
    let_go()
    reads = 0
    while any(process.poll() is None for process in processes):
        if reads or cache.folder.exists():
            found = cache.load("key")
            if reads or found is not None:
                assert_whole(found)
                reads += 1

    assert [process.returncode for process in processes] == [0] * WRITERS
    assert reads > 0
    assert len(list(cache.folder.iterdir())) == 1
    assert_whole(cache.load("key"))


def test_a_killed_writer_spoils_nothing(cache: BaselineCache, writers) -> None:
    """What the others, or it itself before, kept is whole."""
    processes, let_go = writers(10**6)
    let_go()
    while cache.load("key") is None:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.001)
    for process in processes:
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert_whole(cache.load("key"))


# Used again


def test_measured_anew_without_a_cache(clock) -> None:
    found = idle_power(idle(clock, 50), 10, clock, had_context=False)

    assert found.baseline.power_w == pytest.approx((50,))
    assert found.baseline.had_context is False
    assert (found.cache_age_s, found.notes, found.method) == (None, (), BaselineMethod.FRESH)


def test_what_was_measured_is_used_again(clock, cache: BaselineCache) -> None:
    """With its age, and without waiting or touching the meter."""
    first = idle_power(idle(clock, 50), 10, clock, cache=cache, driver="550")
    clock.sleep(100)
    meter = idle(clock, 70)
    meter.start()

    again = idle_power(meter, 10, clock, cache=cache, driver="550")

    assert again == IdlePower(baseline=first.baseline, cache_age_s=110)
    assert again.method is BaselineMethod.CACHED
    assert clock.monotonic() == 210


@pytest.mark.parametrize(
    ("passed_s", "max_age_s", "cached"),
    [
        (0.0, 10.0, True),
        (89.0, 100.0, True),
        (90.0, 100.0, True),
        (91.0, 100.0, False),
        (-10.0, 100.0, True),
        (-11.0, 100.0, False),
        (-10.0, 0.0, False),
        (baseline.MAX_AGE_S - 10, None, True),
        (baseline.MAX_AGE_S - 9, None, False),
    ],
)
def test_age_limit(
    clock, cache: BaselineCache, passed_s: float, max_age_s: float | None, cached: bool
) -> None:
    """Not older than asked for, by default an hour, not of the future, and none at all for 0."""
    limit = {} if max_age_s is None else {"max_age_s": max_age_s}
    idle_power(idle(clock, 50), 10, clock, cache=cache)
    clock.time_s += passed_s

    again = idle_power(idle(clock, 70), 10, clock, cache=cache, **limit)

    assert again.baseline.power_w == pytest.approx((50,) if cached else (70,))
    assert (again.cache_age_s is not None) is cached


def test_a_fresh_one_replaces_the_old_one(clock, cache: BaselineCache) -> None:
    idle_power(idle(clock, 50), 10, clock, cache=cache)
    clock.sleep(100)
    idle_power(idle(clock, 70), 10, clock, cache=cache, max_age_s=50.0)

    again = idle_power(idle(clock, 90), 10, clock, cache=cache)

    assert again.baseline.power_w == pytest.approx((70,))


@pytest.mark.parametrize(("asked_s", "cached"), [(5, True), (10, True), (10.05, True), (11, False)])
def test_a_shorter_one_is_not_used(
    clock, cache: BaselineCache, asked_s: float, cached: bool
) -> None:
    """Who asks for 30 s does not get the 1 s that someone tried out."""
    idle_power(idle(clock, 50), 10, clock, cache=cache)

    again = idle_power(idle(clock, 70), asked_s, clock, cache=cache)

    assert (again.cache_age_s is not None) is cached


def test_a_baseline_with_a_hole_is_not_kept(clock, cache: BaselineCache) -> None:
    """Nor used, where something else kept it."""
    found = idle_power(idle(clock, 50, NAN), 10, clock, cache=cache)

    assert found.method is BaselineMethod.UNAVAILABLE
    assert not cache.folder.exists()

    meter = idle(clock, 50, 30)
    key = baseline_key(meter, None, None)
    for power_w in ((50.0, None), (50.0,), (), (50.0, 0.0)):
        cache.store(key, attrs.evolve(KEPT, power_w=power_w, timestamp=clock.now()))
        assert idle_power(idle(clock, 50, 30), 10, clock, cache=cache).cache_age_s is None


def test_a_cache_that_cannot_be_written_is_noted(clock, tmp_path: Path) -> None:
    """The baseline is there all the same."""
    (tmp_path / "file").write_text("")

    found = idle_power(idle(clock, 50), 10, clock, cache=BaselineCache(tmp_path / "file"))

    assert found.baseline.total_w == pytest.approx(50)
    (note,) = found.notes
    assert "could not be kept" in note


def test_what_a_key_tells_apart(clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine, meter, devices in order, sensors, driver and context; not power or wishes."""
    meter = idle(clock, 50, 30)
    first, second = meter.devices

    def key(
        devices=meter.devices,
        name: str = "replay",
        driver="550",
        had_context=True,
        host="a",
        id_="1",
    ) -> str:
        monkeypatch.setattr("socket.gethostname", lambda: host)
        monkeypatch.setattr(baseline, "_machine_id", lambda: id_)
        monkeypatch.setattr(ReplayMeter, "name", name)
        return baseline_key(ReplayMeter(devices, Samples()), driver, had_context)

    others = [
        key((second, first)),
        key((first,)),
        key((attrs.evolve(first, uuid="GPU-9"), second)),
        key((attrs.evolve(first, sensor=Sensor.NVML_POWER), second)),
        key((attrs.evolve(first, scope="module"), second)),
        key(name="nvml"),
        key(driver="560"),
        key(driver=None),
        key(had_context=False),
        key(had_context=None),
        key(host="b"),
        key(id_="2"),
        key(id_=None),
    ]

    assert len({key(), *others}) == 1 + len(others)
    assert key() == key() == key((attrs.evolve(first, name="Busy", period_s=0.1), second))


def test_a_machine_without_an_identity(clock, monkeypatch, tmp_path: Path) -> None:
    """It still has a name, and is not mixed up with one that has both."""
    keys = set()
    for content in (b"1f\n", b"2f\n", b"", b"\xff", None):
        path = tmp_path / str(content)
        if content is not None:
            path.write_bytes(content)
        monkeypatch.setattr(baseline, "MACHINE_ID", path)
        keys.add(baseline_key(idle(clock, 50), None, None))

    assert len(keys) == 3


def test_a_key_is_plain_text(clock, cache: BaselineCache) -> None:
    """Whatever devices are called."""
    meter = idle(clock, 50, uuid="GPU-\n☃'")

    idle_power(meter, 10, clock, cache=cache)

    assert idle_power(meter, 10, clock, cache=cache).cache_age_s is not None


@pytest.mark.parametrize(
    ("xdg", "home", "folder"),
    [
        ("/xdg", "/home/me", "/xdg/llem/baselines"),
        ("", "/home/me", "/home/me/.cache/llem/baselines"),
        (None, "/home/me", "/home/me/.cache/llem/baselines"),
        ("relative", "/home/me", "/home/me/.cache/llem/baselines"),
        (None, "nowhere", None),
    ],
)
def test_default_folder(
    monkeypatch: pytest.MonkeyPatch, xdg: str | None, home: str, folder: str | None
) -> None:
    """As the XDG specification has it; none without a home."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if xdg is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", home)

    assert default_cache_folder() == (None if folder is None else Path(folder))
