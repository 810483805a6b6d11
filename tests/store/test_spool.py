"""What a process leaves is there whole and read as it was, or it is named and never taken."""

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from itertools import groupby
from pathlib import Path

import attrs
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from killing import PATHS, Dying
from powercut import Disk, build
from seam import OneCall, WatchedOs, failing
from spooling import (
    CONDITIONS,
    EXPERIMENT,
    PROCESS,
    RUN,
    SPOOL_SCENES,
    begun,
    is_whole,
    leave,
    left_by,
    look,
    manifest_of,
    process_of,
)

from llem.codec import measurement_config_hash, record_from_json, record_to_json
from llem.completeness import check_completeness
from llem.domain.spool import Marker, RunManifest, file_name
from llem.errors import (
    AggregationError,
    IncompleteRunError,
    InvalidNameError,
    LlemError,
    MalformedResultError,
    ResultAccessError,
    ResultIntegrityError,
    ResultNotFoundError,
    ResultValidationError,
    SchemaVersionError,
    SidecarIntegrityError,
    SidecarSchemaError,
    StoreWriteError,
)
from llem.store import ResultStore, Spool, spool, staging
from llem.testing import conditions, process_results, small_result, small_table, timeseries_tables

OF_A_FILE = ["open", "write", "fsync", "close", "link", "unlink"]
SYNC = ["open", "fsync", "close"]
CALLS = [*OF_A_FILE * 3, *SYNC, *OF_A_FILE, *SYNC]
FAULTS = [errno.ENOSPC, errno.EIO, errno.EACCES]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def named(complete):
    return [(problem.process_index, problem.kind) for problem in complete.problems]


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(process_results(), conditions(), st.none() | timeseries_tables(), st.integers(0, 2**64 - 1))
def test_what_is_left_is_read(process, left, table, index):
    """Every field of record and conditions, and the samples; the run is complete but for others."""
    process = attrs.evolve(process, process_index=index, experiment_id="a/b")
    with tempfile.TemporaryDirectory() as root:
        one = Spool.of(root, "r")
        one.begin(attrs.evolve(manifest_of(1), run_id="r"))
        one.leave(process, left, table)

        part = one.read(index)

        assert (part.process, part.conditions) == (process, left)
        if table is None or not table.num_rows:
            assert part.timeseries is None
        else:
            assert pq.ParquetFile(part.timeseries).read().equals(table)
        (found,) = one.found()
        assert (found.index, found.process_index, found.experiment_id) == (index, index, "a/b")
        assert found.measurement_config_hash == measurement_config_hash(process.effective_config)
        assert found.faults == {}


def test_a_run_whose_processes_have_all_left_is_complete(root):
    one = left_by(root, 3)

    assert look(one).complete
    assert one.indices() == (0, 1, 2)
    assert one.strangers() == ()
    assert one.manifest() == manifest_of(3)
    assert all(is_whole(one, index) for index in range(3))


def test_names_and_samples_are_those_that_are_documented(root):
    one = left_by(root, 1)
    one.leave(process_of(1), CONDITIONS)

    assert sorted(os.listdir(one.folder)) == [
        "process-00000.conditions.json",
        "process-00000.json",
        "process-00000.marker.json",
        "process-00000.parquet",
        "process-00001.conditions.json",
        "process-00001.json",
        "process-00001.marker.json",
        "run.json",
    ]
    told = pq.read_schema(one.read(0).timeseries).metadata
    assert told[b"llem.experiment_id"] == EXPERIMENT.encode()
    assert told[b"llem.start_time"] == CONDITIONS.start_time.isoformat().encode()
    for device in PROCESS.devices:
        assert device.uuid.encode() in told[b"llem.devices"]


def test_the_order_of_leaving(root, monkeypatch):
    """The marker comes once all else is durable."""
    one = begun(root, 1)
    watched = WatchedOs().install(monkeypatch)

    leave(one, 0)

    assert [name for name, _ in watched.calls] == CALLS
    linked = [args[1] for name, args, _ in watched.log if name == "link"]
    assert [os.path.basename(path) for path in linked] == [
        "process-00000.json",
        "process-00000.conditions.json",
        "process-00000.parquet",
        "process-00000.marker.json",
    ]


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("at", range(len(CALLS)), ids=lambda at: f"{at}-{CALLS[at]}")
def test_a_fault_leaves_nothing_of_the_process(root, monkeypatch, at, number):
    """At each call: the error names the folder and what to do, and leaving again works."""
    one = left_by(root, 1)
    before, count = contents(one.folder), descriptors()
    WatchedOs(at, failing(number)).install(monkeypatch)

    with pytest.raises(StoreWriteError) as caught:
        leave(one, 1)
    monkeypatch.undo()

    assert str(one.folder) in str(caught.value)
    assert "nothing of process 1 was left there" in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert contents(one.folder) == before
    assert descriptors() == count
    leave(one, 1)
    assert is_whole(one, 1)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(len(CALLS)), ids=lambda at: f"{at}-{CALLS[at]}")
def test_an_interrupt_leaves_nothing_of_the_process(root, monkeypatch, at, after):
    """Ctrl-C instead of each call, and once it took place."""

    def interrupted(real, *args):
        out = real(*args) if after or real is os.close else None
        if real is os.open and out is not None:
            os.close(out)
        raise KeyboardInterrupt

    one = left_by(root, 1)
    before, count = contents(one.folder), descriptors()
    WatchedOs(at, interrupted).install(monkeypatch)

    with pytest.raises(KeyboardInterrupt):
        leave(one, 1)
    monkeypatch.undo()

    assert contents(one.folder) == before
    assert descriptors() == count


@pytest.mark.parametrize("what", ["begin", "take"])
def test_a_fault_of_beginning_or_taking_is_told(root, monkeypatch, what):
    """At each call; nothing is left on its way."""
    sent = list(left_by(root, 1).export(0))
    do = {
        "begin": lambda one: one.begin(manifest_of(1)),
        "take": lambda one: one.take(sent[0][0], [sent[0][1]]),
    }[what]
    for at in range(99):
        other = root / str(at)
        one = Spool.of(other, RUN)
        if what == "take":
            one.begin(manifest_of(1))
        watched = WatchedOs(at, failing(errno.ENOSPC)).install(monkeypatch)
        with contextlib.suppress(StoreWriteError):
            do(one)
            assert len(watched.calls) <= at
            monkeypatch.undo()
            break
        monkeypatch.undo()
        assert not [*other.glob(".state/run-1/.*")]
        do(one)
        left = {"begin": {"run.json"}, "take": {"run.json", "process-00000.json"}}[what]
        assert {*os.listdir(one.folder)} == left
    assert at > len(OF_A_FILE)


def test_a_begun_run_stays_begun_where_another_process_fails(root, monkeypatch):
    """What one process wrote last, all of them rely on."""
    one = Spool.of(root, RUN)
    one.begin(manifest_of(2))
    (one.folder / "run.json").unlink()
    watched = WatchedOs(99).install(monkeypatch)
    one.begin(manifest_of(2))
    last = len(watched.calls) - 1
    (one.folder / "run.json").unlink()
    WatchedOs(last, failing(errno.EIO)).install(monkeypatch)

    with pytest.raises(StoreWriteError):
        one.begin(manifest_of(2))

    assert os.listdir(one.folder) == ["run.json"]
    assert one.manifest() == manifest_of(2)


def test_beginning_is_done_by_all(root):
    """The second process finds it begun, and another run of that name is refused."""
    one = begun(root, 2)
    one.begin(manifest_of(2))

    with pytest.raises(StoreWriteError, match=r"name.*of its own"):
        one.begin(manifest_of(3))

    assert one.manifest() == manifest_of(2)
    assert os.listdir(one.folder) == ["run.json"]


def test_another_process_of_the_same_rank_is_refused(root):
    """What is there stays, and it is said what to do."""
    one = begun(root, 1)
    leave(one, 0)
    before = contents(one.folder)

    with pytest.raises(StoreWriteError, match="rank"):
        one.leave(attrs.evolve(process_of(0), model_name="another"), CONDITIONS)

    assert contents(one.folder) == before
    leave(one, 0)
    assert contents(one.folder) == before


def test_a_file_system_without_links_is_used(root, monkeypatch):
    """Files are renamed there, and none is replaced."""
    fault = OSError(errno.EPERM, os.strerror(errno.EPERM))
    monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(fault))
    one = left_by(root, 2)

    assert look(one).complete
    assert one.strangers() == ()
    leave(one, 0)
    with pytest.raises(StoreWriteError, match="rank"):
        one.leave(attrs.evolve(process_of(0), model_name="another"), CONDITIONS)
    assert look(one).complete
    assert all(not name.startswith(".") for name in os.listdir(one.folder))


@pytest.mark.parametrize(
    "run_id", ["", ".", "..", "a/b", "/a", ".a", "a\0", "a\n", "é", 3, "a" * 129]
)
def test_a_run_needs_a_plain_name(root, run_id):
    with pytest.raises(InvalidNameError, match="run_id"):
        Spool.of(root, run_id)


def test_the_manifest_of_another_run_is_refused(root):
    one = Spool.of(root, "run-2")

    with pytest.raises(InvalidNameError, match="run-1"):
        one.begin(manifest_of(1))

    assert not root.exists()


def test_leaving_without_a_run_says_what_to_do(root):
    with pytest.raises(StoreWriteError, match="begin the run first"):
        leave(Spool.of(root, RUN), 0)

    assert not root.exists()


@pytest.mark.parametrize("path", ["", "/\0/x"])
def test_what_is_no_path_is_told(path):
    one = Spool(Path(path + "/a"))

    with contextlib.suppress(StoreWriteError, ResultNotFoundError):
        one.found()
    with pytest.raises(StoreWriteError):
        leave(one, 0)
    assert not one.is_held()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(root, mask):
    before = os.umask(mask)
    try:
        one = left_by(root, 1)
    finally:
        os.umask(before)

    for folder in (root, one.folder.parent, one.folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask
    for path in one.folder.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


def test_a_document_over_the_limit_is_refused_before_it_is_written(root):
    one = begun(root, 1)
    small = Spool(one.folder, max_json_bytes=100)

    with pytest.raises(ResultValidationError, match="max_json_bytes=100"):
        leave(small, 0)
    with pytest.raises(SidecarIntegrityError):
        leave(Spool(one.folder, max_rows=1), 0)
    with pytest.raises(SidecarSchemaError):
        one.leave(PROCESS, CONDITIONS, small_table().drop_columns(["gpu_index"]))

    assert os.listdir(one.folder) == ["run.json"]


RANK = """
import sys, os
from pathlib import Path
from spooling import leave, manifest_of, RUN
from llem.store import Spool
root, index, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
one = Spool.of(root, RUN)
with one.taking_part(manifest_of(count)):
    leave(one, index)
    if len(sys.argv) > 4:
        print("left", flush=True)
        sys.stdin.readline()
"""


@pytest.fixture
def ranks():
    """Starts processes of a run that wait to be let go."""
    started = []

    def start(root, *words):
        path = os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", RANK, str(root), *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
                text=True,
            )
        )
        return started[-1]

    yield start
    for one in started:
        one.kill()
        one.wait()
        one.stdin.close()
        one.stdout.close()


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_eight_processes_leave_at_once(root, ranks):
    """None of them began the run before, and there is not even a root."""
    started = [ranks(root, index, 8) for index in range(8)]
    for one in started:
        assert one.stdout.readline() == "ready\n"
    for one in started:
        go(one)

    assert [one.wait() for one in started] == [0] * 8

    left = Spool.of(root, RUN)
    assert look(left).complete
    assert left.strangers() == ()
    assert all(is_whole(left, index) for index in range(8))
    assert not [name for name in os.listdir(left.folder) if name.startswith(".")]


def test_a_run_is_unfinished_once_its_processes_have_died(root, ranks):
    """While one lives it is at work: nobody may aggregate, and no fault is named."""
    process = ranks(root, 0, 2, "stays")
    go(process)
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "left\n"]
    one, store = Spool.of(root, RUN), ResultStore(root)

    assert one.is_held()
    assert store.verify().faults == ()
    with pytest.raises(IncompleteRunError, match="still at work"), one.hold(wait_s=0):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()

    assert not one.is_held()
    (fault,) = store.verify().faults
    assert (fault.key, fault.kind, fault.path) == (RUN, "unfinished", str(one.folder))
    assert "1 of its processes" in fault.message
    assert fault.advice.startswith(f"`llem aggregate {one.folder}` finishes it")
    assert f"`rm -r {one.folder}` gives it up" in fault.advice
    repaired = store.repair()
    assert (repaired.moved, repaired.left) == ((), (fault,))
    assert look(one).usable == (0,)


def test_two_do_not_aggregate_at_once(root):
    one = left_by(root, 1)

    with one.hold():
        assert ResultStore(root).verify().faults == ()
        with (
            pytest.raises(AggregationError, match="is being aggregated by another process") as told,
            one.hold(wait_s=0.02),
        ):
            pass
        assert not isinstance(told.value, IncompleteRunError)
        with pytest.raises(AggregationError), one.taking_part(manifest_of(1), wait_s=0):
            pass
    with one.hold():
        pass


def test_holding_waits_for_those_at_work(root):
    one = left_by(root, 1)
    inside, leaving = threading.Event(), threading.Event()

    def work():
        with one.taking_part(manifest_of(1)):
            inside.set()
            leaving.wait()

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    threading.Timer(0.1, leaving.set).start()

    began = time.monotonic()
    with one.hold(wait_s=30):
        assert time.monotonic() - began < 20
    thread.join()


def test_many_take_part_at_once(root):
    one = Spool.of(root, RUN)

    with one.taking_part(manifest_of(2)), one.taking_part(manifest_of(2), wait_s=0):
        assert one.is_held()


def test_a_file_system_without_locks_is_used(root, monkeypatch):
    """As some that are shared over a network. Nobody waits there for what never comes."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    one = begun(root, 1)

    with one.taking_part(manifest_of(1)):
        leave(one, 0)
    with one.hold():
        assert look(one).complete
        one.remove()

    assert not one.is_held()


def test_who_waited_for_a_removed_spool_is_told(root, monkeypatch):
    """Another has aggregated it meanwhile."""
    one = left_by(root, 1)

    def lock(*_):
        one.remove()
        return True

    monkeypatch.setattr(spool, "lock", lock)

    with pytest.raises(ResultNotFoundError, match="removed by another"), one.hold():
        pass


def test_a_spool_that_is_not_there_is_told(root):
    one = Spool.of(root, RUN)

    for attempt in (one.found, one.manifest, one.strangers, lambda: one.read(0)):
        with pytest.raises(ResultNotFoundError):
            attempt()
    with pytest.raises(ResultNotFoundError), one.hold():
        pass
    assert one.files_of(0) == {}
    assert not one.is_held()
    one.remove()
    assert not root.exists()


def a_link(path):
    shutil.copy(path, path.parent.parent.parent / "elsewhere")
    path.unlink()
    path.symlink_to(path.parent.parent.parent / "elsewhere")


def a_fifo(path):
    path.unlink()
    os.mkfifo(path)


def a_folder(path):
    path.unlink()
    path.mkdir()


def torn(path):
    os.truncate(path, path.stat().st_size // 2)


def empty(path):
    os.truncate(path, 0)


def no_text(path):
    path.write_bytes(bytes(range(256)))


def another_object(path):
    path.write_text("{}")


RUINS = [a_link, a_fifo, a_folder, torn, empty, no_text, another_object]
PARTS = ["record", "conditions", "time series", "marker"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("ruin", RUINS)
def test_what_is_no_file_of_a_process_is_named(root, ruin, part):
    """Its process alone, and nothing else of the run; reading it is an error of ours."""
    one = left_by(root, 3)
    ruin(one.folder / file_name(1, part))

    complete = look(one)

    assert {index for index, _ in named(complete)} == {1}
    assert (1, "unreadable") in named(complete)
    assert f"its {part} cannot be read" in str(complete)
    assert complete.usable == (0, 2)
    with pytest.raises(LlemError):
        one.read(1)
    assert is_whole(one, 0)


@pytest.mark.parametrize("part", PARTS)
def test_a_file_that_is_gone_is_named(root, part):
    one = left_by(root, 2)
    (one.folder / file_name(1, part)).unlink()

    kind = "unmarked" if part == "marker" else "file_missing"
    assert named(look(one)) == [(1, kind)]
    with pytest.raises(ResultNotFoundError):
        one.read(1)


@pytest.mark.parametrize("part", PARTS[:3])
def test_one_flipped_bit_is_named(root, part):
    """Whether or not it can be read still."""
    one = left_by(root, 2)
    path = one.folder / file_name(1, part)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

    assert (1, "digest") in named(look(one))
    with pytest.raises(ResultIntegrityError, match="SHA-256"):
        one.read(1)


def test_a_file_over_the_limit_is_named(root):
    """It is not even read."""
    one = left_by(root, 2)
    (one.folder / file_name(1, "record")).write_bytes(b" " * 10**6)
    tight = Spool(one.folder, max_json_bytes=10**5)

    assert named(look(tight)) == [(1, "unreadable")]
    with pytest.raises(MalformedResultError, match="over the limit"):
        tight.read(1)


def rewrite(one, index, name="marker", cls=Marker, **fields):
    path = one.folder / file_name(index, name)
    record = record_from_json(path.read_bytes(), cls, source=str(path))
    path.write_bytes(record_to_json(attrs.evolve(record, **fields)))


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({"run_id": "run-2"}, "other_run"), ({"process_index": 0}, "other_process")],
)
def test_the_marker_of_another_vouches_for_nothing(root, fields, kind):
    one = left_by(root, 2)
    rewrite(one, 1, **fields)

    assert named(look(one)) == [(1, kind)]
    with pytest.raises(ResultIntegrityError, match="is of process"):
        one.read(1)


def test_the_record_of_another_process_is_not_taken(root):
    """Even where the marker vouches for it."""
    one = left_by(root, 3)
    for part in PARTS[:3]:
        shutil.copy(one.folder / file_name(0, part), one.folder / file_name(1, part))
    sums = {
        name.replace("00000", "00001"): digest for name, digest in next(one.found()).sha256.items()
    }
    rewrite(one, 1, files=sums)

    assert named(look(one)) == [(0, "duplicate"), (1, "misnamed")]
    assert look(one).usable == (2,)
    with pytest.raises(ResultIntegrityError, match="is of process 0, not 1"):
        one.read(1)


def test_the_samples_that_no_marker_names_are_not_taken(root):
    one = begun(root, 1)
    one.leave(process_of(0), CONDITIONS)
    (one.folder / file_name(0, "time series")).write_bytes(b"PAR1")

    assert (0, "not_vouched") in named(look(one))


def test_a_stale_spool_is_never_taken(root):
    """That of another run, under the name of this one."""
    one = left_by(root, 2)
    stale = Spool.of(root, "run-2")
    shutil.copytree(one.folder, stale.folder)

    with pytest.raises(ResultIntegrityError, match="'run-1'"):
        stale.manifest()
    (stale.folder / "run.json").unlink()
    stale.begin(attrs.evolve(manifest_of(2), run_id="run-2"))
    assert named(look(stale)) == [(0, "other_run"), (1, "other_run")]


def test_processes_of_another_experiment_or_configuration_are_named(root):
    one = begun(root, 2)
    one.leave(attrs.evolve(process_of(0), experiment_id="x"), CONDITIONS)
    one.leave(attrs.evolve(process_of(1), effective_config={"model": "x"}), CONDITIONS)

    assert named(look(one)) == [(0, "experiment"), (1, "config")]


def test_another_schema_version_is_named(root):
    one = left_by(root, 1)
    for name in ("run.json", "process-00000.json"):
        path = one.folder / name
        path.write_bytes(path.read_bytes().replace(b'"2.0"', b'"3.0"', 1))

    with pytest.raises(SchemaVersionError, match=r"run\.json.*'3\.0'.*llem that wrote it"):
        one.manifest()
    (found,) = one.found()
    assert "'3.0'" in found.faults["record"]


@pytest.mark.parametrize("ruin", RUINS)
def test_a_manifest_that_is_none_is_told(root, ruin):
    one = left_by(root, 1)
    ruin(one.folder / "run.json")

    with pytest.raises(LlemError) as caught:
        one.manifest()

    assert "run.json" in str(caught.value)
    assert not isinstance(caught.value, ResultNotFoundError)


STRANGERS = [
    "notes.txt",
    "process-1.json",
    "process-000001.json",
    "process-00001.json~",
    "process-00001.jsonx",
    "process-\N{ARABIC-INDIC DIGIT ONE}0000.json",
    "xprocess-00001.json",
    "process-00001",
    f"process-{2**64}.json",
    ".process-00001.json.swp",
    ".hidden",
    "run.json.bak",
    "PROCESS-00001.JSON",
]


def test_what_else_lies_there_is_listed_and_nothing_more(root):
    one = left_by(root, 1)
    for name in STRANGERS:
        (one.folder / name).write_bytes(b"\xff")
    (one.folder / "deep").mkdir()

    assert [*one.strangers()] == sorted([*STRANGERS, "deep"])
    assert look(one).complete
    for name in [*STRANGERS, "run.json", "../x.json", "a/process-00001.json", "", None]:
        with pytest.raises(InvalidNameError):
            one.take(name, [b"x"])


def test_a_process_that_died_over_its_first_file_is_unmarked(root):
    """What was on its way says so."""
    one = left_by(root, 1)
    (one.folder / f".process-00001.json.{'0' * 32}").write_bytes(b"{")

    assert named(check_completeness(manifest_of(2), one.found()))[0] == (1, "unmarked")
    assert one.strangers() == ()


@given(st.dictionaries(st.sampled_from(PARTS), st.binary(max_size=40)))
def test_any_bytes_are_reported(junk):
    """None of them ends the look, and the process is usable only where none of it was replaced."""
    with tempfile.TemporaryDirectory() as root:
        one = left_by(root, 2)
        for part, content in junk.items():
            (one.folder / file_name(1, part)).write_bytes(content)

        complete = look(one)

        assert complete.usable == ((0,) if junk else (0, 1))
        assert str(complete).count("\n  rank 1: ") == len(complete.problems)


def test_a_folder_whose_name_is_no_unicode_is_read(tmp_path):
    root = tmp_path / "caf\udce9"
    one = left_by(root, 1)
    torn(one.folder / file_name(0, "record"))

    assert (0, "unreadable") in named(look(one))


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: p.symlink_to(p.parent)])
def test_what_is_no_folder_is_told(root, make):
    """It is not followed, and not removed."""
    one = Spool.of(root, RUN)
    one.folder.parent.mkdir(parents=True)
    make(one.folder)

    for attempt in (one.found, lambda: one.hold().__enter__()):
        with pytest.raises(ResultAccessError, match="is no folder of a run"):
            attempt()
    for attempt in (one.remove, lambda: one.begin(manifest_of(1)), lambda: leave(one, 0)):
        with pytest.raises((StoreWriteError, ResultAccessError)):
            attempt()
    assert os.path.lexists(one.folder)
    (fault,) = ResultStore(root).verify().faults
    assert (fault.kind, fault.path) == ("state", str(one.folder))
    assert ResultStore(root).repair().left == (fault,)


def send(one, other, index):
    """As a connection between two machines would."""
    for name, pairs in groupby(one.export(index), key=lambda pair: pair[0]):
        other.take(name, (chunk for _, chunk in pairs))


def test_what_is_sent_is_the_same_on_the_other_side(root, monkeypatch):
    monkeypatch.setattr(spool, "CHUNK_BYTES", 1000)
    one, other = left_by(root / "one", 2), begun(root / "other", 2)

    for index in (0, 1, 1):
        send(one, other, index)

    assert contents(other.folder) == contents(one.folder)
    assert look(other).complete
    names = [name for name, _ in one.export(1)]
    assert max(len(chunk) for _, chunk in one.export(1)) == 1000
    assert len(names) > 4
    assert names[-1] == "process-00001.marker.json"
    assert dict(one.files_of(1)) == {
        name: (one.folder / name).stat().st_size for name in dict.fromkeys(names)
    }


def test_what_is_sent_in_part_is_named(root):
    one, other = left_by(root / "one", 1), begun(root / "other", 1)
    for name, chunk in one.export(0):
        assert not look(other).complete
        other.take(name, [chunk])
    assert look(other).complete


def test_nothing_of_a_file_that_breaks_off_is_there(root):
    """The error of the connection is the caller's."""
    one = begun(root, 1)

    def breaking():
        yield b"{"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        one.take("process-00000.json", breaking())

    assert os.listdir(one.folder) == ["run.json"]


def test_another_content_under_a_name_is_not_taken(root):
    one = left_by(root, 1)
    before = contents(one.folder)

    with pytest.raises(StoreWriteError, match=r"process-00000\.json"):
        one.take("process-00000.json", [b"{}"])
    with pytest.raises(MalformedResultError, match="more than 10 bytes"):
        Spool(one.folder, max_json_bytes=10).take("process-00001.json", [b"x" * 6, b"x" * 6])
    with pytest.raises(SidecarIntegrityError):
        Spool(one.folder, max_rows=0).take("process-00001.parquet", [b"x" * (2**20 + 1)])

    assert contents(one.folder) == before


def test_a_removed_spool_is_gone(root):
    """And so is the folder of all of them once it is the last."""
    one, other = left_by(root, 2), Spool.of(root, "run-2")
    (one.folder / f".process-00009.json.{'a' * 32}").write_bytes(b"x")
    other.begin(attrs.evolve(manifest_of(1), run_id="run-2"))

    with one.hold():
        one.remove()
    one.remove()
    assert os.listdir(root / ".state") == ["run-2"]
    other.remove()

    assert not (root / ".state").exists()
    assert os.listdir(root / ".llem-tmp") == []
    assert ResultStore(root).verify().faults == ()


def test_removing_follows_no_link_and_keeps_what_is_not_ours(root, tmp_path):
    one = left_by(root, 1)
    (tmp_path / "elsewhere").write_text("theirs")
    (one.folder / "process-00005.json").symlink_to(tmp_path / "elsewhere")
    (one.folder / "notes").write_text("theirs")

    one.remove()

    assert (tmp_path / "elsewhere").read_text() == "theirs"
    (kept,) = (root / ".llem-tmp").iterdir()
    assert os.listdir(kept) == ["notes"]
    assert [fault.kind for fault in ResultStore(root).verify().faults] == ["staging"]


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
def test_a_spool_that_cannot_be_removed_stays_complete(root, monkeypatch, number):
    one, renaming = left_by(root, 2), OneCall("rename")
    calls = WatchedOs().install(monkeypatch)
    copy = root.parent / "copy"
    shutil.copytree(root, copy)
    Spool.of(copy, RUN).remove()
    at = next(i for i, (name, path) in enumerate(calls.calls) if renaming(name, path))
    WatchedOs(at, failing(number)).install(monkeypatch)

    with pytest.raises(StoreWriteError, match=RUN):
        one.remove()

    monkeypatch.undo()
    assert look(one).complete


def test_a_spool_is_no_result(root):
    """It is not listed, read, nor moved."""
    store = ResultStore(root)
    kept = store.put(small_result(), timeseries=small_table())
    one = left_by(root, 2)
    (one.folder / "result.json").write_text("{}")
    before = contents(one.folder)

    assert list(store) == [kept.key]
    assert len(store) == 1
    assert store.verify().checked == 1
    assert ".state" not in store
    assert [fault.kind for fault in store.repair().left] == ["unfinished"]
    assert contents(one.folder) == before


def test_a_run_that_was_just_begun_is_not_unfinished(root, monkeypatch):
    """Whoever began it may not hold it yet; after a while nobody will."""
    one, store = begun(root, 1), ResultStore(root)
    assert store.verify().faults == ()

    monkeypatch.setattr(staging, "UNLOCKED_S", 0.0)
    assert [fault.kind for fault in store.verify().faults] == ["state"]

    (one.folder / "run.json").unlink()
    (fault,) = store.verify().faults
    assert fault.kind == "state"
    assert fault.advice.startswith("take it away")
    assert store.repair().left == (fault,)
    one.folder.rmdir()
    assert store.verify().faults == ()


def test_what_processes_left_is_not_called_nothing(root):
    """Even where nothing says which run it is of: nobody is told to take it away."""
    one = left_by(root, 2)
    (one.folder / "run.json").unlink()

    (fault,) = ResultStore(root).verify().faults

    assert fault.kind == "unfinished"
    assert "files of 2 of its processes, and without run.json" in fault.message


def test_a_run_that_may_not_be_listed_is_not_taken_for_none(root, monkeypatch):
    """It is one as far as anyone knows: nobody is told to take it away."""
    one, real = left_by(root, 1), os.listdir

    def listdir(path):
        if str(path) == str(one.folder):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)

    (fault,) = ResultStore(root).verify().faults
    assert (fault.kind, fault.path) == ("access", str(one.folder))


def test_the_advice_can_be_pasted(tmp_path):
    root = tmp_path / "it's here"
    left_by(root, 1)

    (fault,) = ResultStore(root).verify().faults

    assert fault.advice.startswith("`llem aggregate '")


@pytest.mark.parametrize("make", [lambda p: p.write_text("x"), lambda p: p.symlink_to(p.parent)])
def test_what_lies_in_the_way_of_all_runs_is_named(root, make):
    """A repair of results goes on all the same."""
    store = ResultStore(root)
    Path(store.put(small_result())).write_text("torn")
    make(root / ".state")

    assert {fault.kind for fault in store.verify().faults} == {"malformed", "state"}
    repaired = store.repair()
    assert [moved.kind for moved in repaired.moved] == ["malformed"]
    assert [fault.kind for fault in repaired.left] == ["state"]
    with pytest.raises(StoreWriteError):
        begun(root, 1)


def test_a_run_begins_where_another_takes_the_state_away(root, monkeypatch):
    """Between the folder of all runs and its own."""
    begun(root, 1).remove()
    real, gone = os.mkdir, []

    def mkdir(path):
        if path.endswith(RUN) and not gone:
            gone.append(path)
            os.rmdir(root / ".state")
        real(path)

    monkeypatch.setattr(os, "mkdir", mkdir)

    assert begun(root, 1).manifest() == manifest_of(1)
    assert gone


def test_a_child_holds_no_lock_of_a_dead_process(root):
    """A process that was forked meanwhile does not keep the run at work."""
    one = begun(root, 1)
    with contextlib.ExitStack() as held:
        held.enter_context(one.taking_part(manifest_of(1)))
        child = subprocess.Popen(["sleep", "60"])
    try:
        assert not one.is_held()
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def dying_in(tmp_path):
    started = []

    def start(scene):
        started.append(Dying(scene, "WatchedOs", tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.stdin.close()
        one.process.stdout.close()
        one.process.wait()


@pytest.mark.parametrize("scene", SPOOL_SCENES)
def test_whoever_is_killed_leaves_what_is_whole_or_named(dying_in, scene):
    """Before and after every call."""
    one, ends = dying_in(scene), []

    for root, end in one.each_call("SIGKILL"):
        one.scene.check(root, is_done=end == "done")
        ends.append(end)

    assert ends.count("done") == 2
    assert ends.count("killed") == len(ends) - 2
    assert len(ends) > 2 * 9


def powercuts(scene, folder, left_out=None):
    """Each tree that a power cut may leave of *scene*, built as a root; whether it had ended."""
    (folder / "scene").mkdir()
    scene.prepare(folder / "scene" / "root")
    disk = Disk(folder / "scene")
    recorder = WatchedOs(left_out=left_out) if left_out else WatchedOs()
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        scene.act(folder / "scene" / "root")
    disk.follow(recorder.log)
    for tree, is_done in disk.states(40):
        now = folder / "now"
        now.mkdir()
        build(tree, now)
        yield now / "root", is_done
        shutil.rmtree(now)


@pytest.mark.parametrize("name", SPOOL_SCENES)
def test_a_power_cut_leaves_what_is_whole_or_named(tmp_path, name):
    """After any call, whatever of it had reached the disk."""
    ends = []

    for root, is_done in powercuts(SPOOL_SCENES[name], tmp_path):
        SPOOL_SCENES[name].check(root, is_done=is_done)
        ends.append(is_done)

    assert {*ends} == {True, False}


STEPS = {
    "the bytes of the record": ("Leaving", OneCall("fsync", r"/\.process-00001\.json\.")),
    "the bytes of the samples": ("Leaving", OneCall("fsync", r"/\.process-00001\.parquet\.")),
    "the bytes of the marker": ("Leaving", OneCall("fsync", r"\.marker\.json\.")),
    "the names": ("Leaving", OneCall("fsync", f"/{RUN}$")),
    "the bytes of the manifest": ("Beginning", OneCall("fsync", r"/\.run\.json\.")),
    "the name of the manifest": ("Beginning", OneCall("fsync", f"/{RUN}$")),
    "the name of the run": ("Beginning", OneCall("fsync", r"/\.state$")),
    "the name of all runs": ("Beginning", OneCall("fsync", "/root$")),
    "the old name before files go": ("Removing", OneCall("fsync", r"/\.state$")),
}


@pytest.mark.parametrize("step", STEPS)
def test_without_one_sync_a_power_cut_is_seen(tmp_path, step):
    """The same check, with one step left out."""
    name, left_out = STEPS[step]

    assert any(
        is_seen(SPOOL_SCENES[name], *it) for it in powercuts(SPOOL_SCENES[name], tmp_path, left_out)
    )
    assert left_out.met


def is_seen(scene, root, is_done):
    try:
        scene.check(root, is_done=is_done)
    except (AssertionError, LlemError):
        return True
    return False


def test_the_manifest_bounds_the_number_of_processes():
    """So that a changed digit has nobody look for 10**18 processes."""
    with pytest.raises(ResultValidationError, match="num_processes"):
        RunManifest(
            run_id="r", experiment_id="e", num_processes=10**18, measurement_config_hash="0" * 16
        )


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, 3, None])
def test_a_marker_holds_digests_alone(digest):
    with pytest.raises(ResultValidationError, match=r"'process-00000\.json'"):
        Marker(run_id="r", process_index=0, files={"process-00000.json": digest})
