"""`repair` moves aside what `verify` names, and loses nothing."""

import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pyarrow as pa
import pytest
from ruins import KINDS
from scenes import (
    DAMAGED,
    DEAD,
    NAME,
    NEXT,
    Repairing,
    check_after,
    damage,
    files_under,
    is_whole,
    put,
)
from seam import OneCall, WatchedOs, failing

import llem.store.staging
from llem.errors import CommitUnknownError, ResultAccessError, ResultNotFoundError, StoreWriteError
from llem.store import Moved, ResultStore
from llem.store.staging import abandoned, boot_id, hold, staging_folder
from llem.testing import small_result, small_table

FAULTS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.EINTR]
LEFT = {"schema_version", "sidecar_missing"}
DEAD_NAME = f"{boot_id()}_{DEAD}"

LOOKING = [(call, DEAD_NAME) for call in ("open", "close")]
MAKING_PLACE = [("mkdir", ".llem-aside"), *[(call, "root") for call in ("open", "fsync", "close")]]
MOVING = [
    ("open", DAMAGED),
    ("mkdir", f"{DAMAGED}.0"),
    ("rename", DAMAGED),
    ("close", DAMAGED),
    ("rmdir", NEXT),
    ("open", DEAD_NAME),
    ("rmdir", DEAD_NAME),
    ("mkdir", f"{DEAD_NAME}.0"),
    ("rename", DEAD_NAME),
    ("close", DEAD_NAME),
]
SYNCING = [
    (call, place) for place in (".llem-aside", "root") for call in ("open", "fsync", "close")
]
CALLS = [*LOOKING, *MAKING_PLACE, *MOVING, *SYNCING]
ALL = range(len(CALLS))
PLACE = ALL[len(LOOKING) : len(LOOKING) + len(MAKING_PLACE)]
MOVES = ALL[PLACE.stop : PLACE.stop + len(MOVING)]


def name_of(index):
    return f"{index}-{'-'.join(CALLS[index])}"


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "root")


@pytest.fixture
def root(store):
    """A good result, a torn one, a claim, and the staging folder of a dead writer."""
    damage(store.root)
    return store.root


@pytest.fixture
def repair(root, monkeypatch):
    """Repairs the root; a fault ends with the call."""

    def call(at=None, do=None, **left_out):
        watched = WatchedOs(at, do, **left_out).install(monkeypatch)
        try:
            return ResultStore(root).repair(), watched.calls
        finally:
            monkeypatch.undo()

    return call


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_what_the_dead_left_is_named(root, store):
    """With its path, its kind, and what to do."""
    torn, claim, staging = store.verify().faults

    assert torn.kind == "malformed"
    assert (claim.key, claim.kind, claim.path) == (NEXT, "claim", str(root / NEXT))
    assert (staging.key, staging.kind) == (DEAD_NAME, "staging")
    assert staging.path == str(root / ".llem-tmp" / DEAD_NAME)
    for fault in (torn, claim, staging):
        assert fault.path in fault.message
        assert "repair" in fault.advice


def test_what_is_at_fault_is_moved_aside(root, repair):
    """The new names are durable before the old ones go, and nothing but an empty folder goes."""
    before = files_under(root)

    repaired, calls = repair()

    assert [(name, Path(path).name) for name, path in calls] == CALLS
    aside = root / ".llem-aside"
    assert repaired.checked == 2
    assert repaired.left == ()
    assert repaired.moved == tuple(
        Moved(key=Path(path).name, kind=kind, path=str(root / path), to=to and str(aside / to))
        for kind, path, to in [
            ("malformed", DAMAGED, f"{DAMAGED}.0"),
            ("claim", NEXT, None),
            ("staging", f".llem-tmp/{DEAD_NAME}", f"{DEAD_NAME}.0"),
        ]
    )
    moved = {f"{DAMAGED}/": f"{DAMAGED}.0/", f".llem-tmp/{DEAD_NAME}/": f"{DEAD_NAME}.0/"}
    after = files_under(aside)
    for old, new in moved.items():
        assert {path: after[new + path] for path in os.listdir(aside / new)} == {
            path.removeprefix(old): content for path, content in before.items() if old in path
        }
    check_after(Repairing, root, is_done=True)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault(store, kind):
    """What is damaged is moved as it is; what is of another llem, or lacks its samples, stays."""
    good, bad = (store.put(small_result(), timeseries=small_table()) for _ in range(2))
    KINDS[kind][0](Path(bad))
    before = {path.name: path.lstat()[:7] for path in Path(bad).parent.iterdir()}

    repaired = store.repair()

    folder = Path(bad).parent if kind in LEFT else Path(repaired.moved[0].to)
    assert {path.name: path.lstat()[:7] for path in folder.iterdir()} == before
    assert [moved.kind for moved in repaired.moved] == ([] if kind in LEFT else [kind])
    assert [fault.kind for fault in repaired.left] == ([kind] if kind in LEFT else [])
    assert store.verify().faults == repaired.left
    assert is_whole(store, good.key, 300)


def test_samples_without_a_record_are_moved(store):
    kept = store.put(small_result(), timeseries=small_table())
    Path(kept).unlink()

    (moved,) = store.repair().moved

    assert (moved.kind, os.listdir(moved.to)) == ("missing", ["timeseries.parquet"])


def test_what_may_not_be_read_just_now_is_left(root, store, monkeypatch):
    """Descriptors run out: each result looks faulty, and none is moved."""
    before = files_under(root)

    def none_left(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("llem.store.reading.os.open", none_left)
    repaired = store.repair()
    monkeypatch.undo()

    assert {fault.kind for fault in repaired.left} == {"access"}
    assert files_under(root) == before


@pytest.mark.parametrize("limit", [{"max_json_bytes": 10}, {"max_rows": 3}], ids=str)
def test_what_is_over_a_limit_of_the_reader_is_left(store, limit):
    kept = store.put(small_result(), timeseries=small_table())

    repaired = ResultStore(store.root, **limit).repair()

    assert [fault.kind for fault in repaired.left] == ["too_large"]
    assert is_whole(store, kept.key, 300)


def no_memory(*_, **__):
    raise MemoryError


def not_enough_memory(*_):
    raise orjson.JSONDecodeError("Not enough memory to allocate buffer for parsing", "", 0)


def arrow_has_none(*_, **__):
    raise pa.ArrowMemoryError("malloc of size 64 failed")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("llem.store.reading._read", no_memory),
        ("llem.store.files.read_document", no_memory),
        ("llem.codec.document.orjson.loads", not_enough_memory),
        ("pyarrow.parquet.ParquetFile.read", arrow_has_none),
        ("pyarrow.BufferReader", arrow_has_none),
        ("llem.store.sidecar.check_nulls", arrow_has_none),
    ],
)
def test_what_there_is_no_memory_for_is_left(store, monkeypatch, name, call):
    """It may be whole, and its digest may have matched."""
    kept = store.put(small_result(), timeseries=small_table())

    with monkeypatch.context() as patch:
        patch.setattr(name, call)
        repaired = store.repair()
        with pytest.raises(ResultAccessError, match="no memory to read it"):
            (store.get(kept), store.timeseries(kept))

    assert [fault.kind for fault in repaired.left] == ["no_memory"]
    assert is_whole(store, kept.key, 300)


def test_a_field_there_is_no_memory_for_is_not_called_wrong(store, monkeypatch):
    """What builds a record keeps every error of a field as text."""
    kept = store.put(small_result())
    monkeypatch.setattr("llem.codec.records.plain_structure", lambda _: no_memory)
    monkeypatch.setattr("llem.domain.result.ExperimentResult.__attrs_post_init__", no_memory)

    assert [fault.kind for fault in store.repair().left] == ["no_memory"]
    assert kept.key in store


def test_a_good_root_is_left_as_it_is(store):
    store.put(small_result())
    before = files_under(store.root)

    repaired = store.repair()

    assert (repaired.checked, repaired.moved, repaired.left) == (1, (), ())
    assert files_under(store.root) == before
    assert not (store.root / ".llem-aside").exists()


def test_no_root_is_no_clean_bill(store):
    with pytest.raises(ResultNotFoundError):
        store.repair()

    store.root.write_text("theirs")
    with pytest.raises(ResultAccessError):
        store.repair()


def test_what_was_moved_before_is_kept(store):
    """A second result of the name gets a number of its own."""
    for number in range(3):
        kept = store.put(small_result(), timeseries=small_table())
        Path(kept).write_text(str(number))
        (moved,) = store.repair().moved
        assert moved.to == str(store.root / ".llem-aside" / f"{NAME}.{number}")

    aside = store.root / ".llem-aside"
    assert [(aside / f"{NAME}.{n}" / "result.json").read_text() for n in range(3)] == list("012")


def test_what_was_moved_can_be_moved_back(store):
    kept = store.put(small_result(), timeseries=small_table())
    content = Path(kept).read_bytes()
    Path(kept).write_bytes(content[:100])
    (moved,) = store.repair().moved

    shutil.move(moved.to, moved.path)
    Path(kept).write_bytes(content)

    assert store.get(kept) == kept.result
    assert store.verify().faults == ()


def test_what_is_mended_meanwhile_stays(root, store, monkeypatch):
    """Another moved the torn result away, and put a good one under its name."""

    def and_mended(real, *args):
        shutil.move(root / DAMAGED, root.parent)
        assert store.put(small_result(), timeseries=small_table()).key == DAMAGED
        return real(*args)

    WatchedOs(PLACE[0], and_mended).install(monkeypatch)
    repaired = store.repair()

    assert [moved.kind for moved in repaired.moved] == ["claim", "staging"]
    assert is_whole(store, DAMAGED, 300)


def test_two_repairs_at_once(root, repair):
    """What the other has moved is not at fault any more."""

    def other(real, *args):
        assert len(ResultStore(root).repair().moved) == 3
        return real(*args)

    for index in (PLACE[0], CALLS.index(("rename", DAMAGED))):
        shutil.rmtree(root)
        damage(root)
        repaired, _ = repair(index, other)

        assert (repaired.moved, repaired.left) == ((), ())
        check_after(Repairing, root, is_done=True)


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("index", PLACE, ids=name_of)
def test_without_a_place_nothing_is_moved(root, repair, index, number):
    before, descriptors = files_under(root), open_descriptors()

    with pytest.raises(StoreWriteError, match=r"\.llem-aside: could not be made") as caught:
        repair(index, failing(number))

    assert os.strerror(number) in str(caught.value)
    assert open_descriptors() == descriptors
    after = files_under(root)
    assert after.pop(".llem-aside", None) is None
    assert after == before
    check_after(Repairing, root, is_done=False)


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("index", MOVES, ids=name_of)
def test_what_cannot_be_moved_is_named_and_the_rest_is_moved(root, repair, index, number):
    """Nothing is left of the attempt, and the next repair ends it."""
    descriptors = open_descriptors()

    repaired, calls = repair(index, failing(number))

    call, name = CALLS[index]
    fails = call != "close" and (call, name) != ("open", DEAD_NAME)
    assert len(repaired.moved) == (3 if call == "close" else 2)
    assert [os.strerror(number) in fault.message for fault in repaired.left] == [True] * fails
    assert open_descriptors() == descriptors
    assert None not in files_under(root / ".llem-aside").values()
    assert calls[-len(SYNCING) + 1] == ("fsync", str(root / ".llem-aside"))
    check_after(Repairing, root, is_done=False)


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
def test_what_cannot_be_looked_at_is_taken_for_alive(root, repair, number):
    """And so is the claim that may be that writer's."""
    descriptors = open_descriptors()

    repaired, _ = repair(CALLS.index(LOOKING[0]), failing(number))

    assert [moved.kind for moved in repaired.moved] == ["malformed"]
    assert open_descriptors() == descriptors
    check_after(Repairing, root, is_done=False)


@pytest.mark.parametrize("index", [i for i in MOVES if CALLS[i][0] == "rename"], ids=name_of)
def test_without_the_clean_up_a_fault_is_seen(root, repair, index):
    """The claim to a place aside would be left."""
    repair(index, failing(errno.EIO), left_out=OneCall("rmdir", r"\.llem-aside/"))

    assert None in files_under(root / ".llem-aside").values()


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("index", ALL[MOVES.stop :], ids=name_of)
def test_a_repair_that_cannot_be_synced_is_told(root, repair, index, number):
    descriptors = open_descriptors()

    with pytest.raises(CommitUnknownError, match=r"\.llem-aside: holds what was moved") as caught:
        repair(index, failing(number))

    assert os.strerror(number) in str(caught.value)
    assert open_descriptors() == descriptors
    check_after(Repairing, root, is_done=True)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.ESTALE], ids=errno.errorcode.get)
def test_a_rename_that_took_place_after_all_counts(root, repair, number):
    """The reply of a file server was lost."""
    repaired, _ = repair(CALLS.index(("rename", DAMAGED)), failing(number, after=True))

    assert [moved.kind for moved in repaired.moved] == ["malformed", "claim", "staging"]
    check_after(Repairing, root, is_done=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ENOENT], ids=errno.errorcode.get)
def test_a_rename_that_did_not_take_place_does_not_count(root, repair, number):
    """Another took the claim to the place aside away."""

    def do(real, source, target):
        os.rmdir(target)
        raise OSError(number, os.strerror(number))

    repaired, _ = repair(CALLS.index(("rename", DAMAGED)), do)

    assert [moved.kind for moved in repaired.moved] == ["claim", "staging"]
    assert [os.strerror(number) in fault.message for fault in repaired.left] == [True]
    check_after(Repairing, root, is_done=False)


def test_a_rename_that_cannot_be_looked_at_does_not_count(root, repair):
    """What lies in the claim cannot be told, and it is not what was to be moved."""

    def do(real, source, target):
        (Path(target) / "theirs").write_text("theirs")
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))

    repaired, _ = repair(CALLS.index(("rename", DAMAGED)), do)

    assert [fault.kind for fault in repaired.left] == ["malformed"]
    assert (root / DAMAGED).is_dir()


def take_the_name(root, store):
    """Another moves the torn result away, and puts a good one under its name."""
    shutil.rmtree(root / DAMAGED)
    assert put(store, 7).key == DAMAGED


def test_what_takes_the_name_after_the_last_look_is_moved_back(root, store, repair):
    def do(real, *args):
        take_the_name(root, store)
        return real(*args)

    repaired, _ = repair(CALLS.index(("rename", DAMAGED)), do)

    assert [moved.kind for moved in repaired.moved] == ["claim", "staging"]
    assert repaired.left == ()
    assert is_whole(store, DAMAGED, 7)
    assert sorted(os.listdir(root / ".llem-aside")) == [f"{DEAD_NAME}.0"]


def test_what_cannot_be_moved_back_is_told(root, store, repair):
    """A third has taken the name by then."""

    def do(real, *args):
        take_the_name(root, store)
        out = real(*args)
        assert put(store, 8).key == DAMAGED
        return out

    repaired, _ = repair(CALLS.index(("rename", DAMAGED)), do)

    (fault,) = repaired.left
    to = root / ".llem-aside" / f"{DAMAGED}.0"
    assert f"was moved to {to}" in fault.message
    assert is_whole(store, DAMAGED, 8)
    assert is_whole(store, to, 7)


def kinds(store):
    return [fault.kind for fault in store.verify().faults]


@pytest.fixture
def staging(store):
    """Makes a staging folder with a file in it, of a name that is given."""
    store.put(small_result())

    def make(name):
        folder = store.root / ".llem-tmp" / name
        folder.mkdir()
        (folder / "result.json").write_text("{}")
        return folder

    return make


def after(monkeypatch, seconds):
    now = time.time()
    monkeypatch.setattr("llem.store.staging.time.time", lambda: now + seconds)


def test_what_is_held_is_alive_however_old(store, staging, monkeypatch):
    folder = staging(DEAD_NAME)
    after(monkeypatch, 1e6)

    with hold(str(folder)):
        assert kinds(store) == []
        assert store.repair().moved == ()
    assert kinds(store) == ["staging"]


@pytest.mark.parametrize("name", ["other-boot_1", "5d3c", "_1"])
def test_a_folder_of_another_machine_is_alive_for_a_day(store, staging, monkeypatch, name):
    """Its lock does not reach here."""
    staging(name)

    assert kinds(store) == []
    after(monkeypatch, 23.9 * 3600)
    assert kinds(store) == []
    after(monkeypatch, 24.1 * 3600)
    assert kinds(store) == ["staging"]


def test_without_locks_a_folder_is_alive_for_a_day(store, staging, monkeypatch):
    """Puts and repairs work there as everywhere."""

    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    staging(DEAD_NAME)

    assert store.put(small_result()).key in store
    assert kinds(store) == []
    after(monkeypatch, 24.1 * 3600)
    assert kinds(store) == ["staging"]
    assert len(store.repair().moved) == 1


def test_without_a_boot_id_a_folder_is_alive_for_a_day(store, staging, monkeypatch):
    boot_id.cache_clear()
    monkeypatch.setattr(llem.store.staging, "_BOOT_ID", "/nonexistent")
    try:
        staging("_1")

        assert store.put(small_result()).key in store
        assert kinds(store) == []
        after(monkeypatch, 24.1 * 3600)
        assert kinds(store) == ["staging"]
    finally:
        boot_id.cache_clear()


def test_an_empty_folder_is_alive_for_a_minute(store, staging, monkeypatch):
    """It is made before it is held."""
    (staging(DEAD_NAME) / "result.json").unlink()

    assert kinds(store) == []
    after(monkeypatch, 61)
    assert kinds(store) == ["staging"]
    (moved,) = store.repair().moved
    assert moved.to is None


def test_a_claim_of_the_living_is_left(store, staging):
    """A claim is a living writer's if it is younger than what that writer has filled."""
    (store.root / f"{NAME}_7").mkdir()
    time.sleep(0.02)
    folder = staging(DEAD_NAME)
    time.sleep(0.02)
    (store.root / f"{NAME}_8").mkdir()

    with hold(str(folder)):
        assert [fault.key for fault in store.verify().faults] == [f"{NAME}_7"]
    assert kinds(store) == ["claim", "claim", "staging"]


@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_folder_is_no_writer(store, staging, link):
    """A stray file in the staging area hides no claim."""
    stray = staging(DEAD_NAME).parent / ".DS_Store"
    if link:
        stray.symlink_to(store.root / NAME)
    else:
        stray.write_text("theirs")
    time.sleep(0.02)
    (store.root / f"{NAME}_7").mkdir()

    assert kinds(store) == ["claim", "staging"]


def test_a_claim_that_is_filled_while_one_looks_is_no_fault(store, monkeypatch):
    """Its writer was alive when it was seen, and is done by now."""
    kept = store.put(small_result())
    (store.root / f"{NAME}_7").mkdir()

    def fill(_):
        shutil.copytree(Path(kept).parent, store.root / f"{NAME}_7", dirs_exist_ok=True)
        return []

    monkeypatch.setattr("llem.store.leftovers._staging_folders", fill)

    assert kinds(store) == []


def test_a_claim_that_is_filled_meanwhile_stays(store, root, repair):
    """Taking it away is an rmdir, which a result withstands."""

    def fill(real, *args):
        shutil.copytree(root / NAME, root / NEXT, dirs_exist_ok=True)
        return real(*args)

    repaired, _ = repair(CALLS.index(("rmdir", NEXT)), fill)

    assert [moved.kind for moved in repaired.moved] == ["malformed", "staging"]
    assert repaired.left == ()
    assert is_whole(store, NEXT, 0)


def test_other_things_in_the_staging_area_are_left(store, staging):
    """A file there, or a link."""
    folder = staging("other")
    (folder.parent / "file").write_text("theirs")
    (folder.parent / "link").symlink_to(store.root)

    assert store.repair().moved == ()
    assert (folder.parent / "link").is_symlink()


def test_a_child_that_is_forked_meanwhile_holds_nothing(root):
    """A writer that dies is dead, whatever it had started."""
    with staging_folder(str(root)) as (path, _):
        child = os.fork()
        if not child:
            signal.pause()
        (Path(path) / "result.json").write_bytes(b"{")
        with abandoned(path) as gone:
            assert not gone
    try:
        with abandoned(path) as gone:
            assert gone
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_writer_that_is_killed_leaves_no_lock_to_its_child(root):
    """Though the child lives on, and had a copy of every descriptor."""
    ready, told = os.pipe()
    writer = os.fork()
    if not writer:
        with staging_folder(str(root)) as (path, _):
            (Path(path) / "result.json").write_bytes(b"{")
            child = os.fork()
            if not child:
                signal.pause()
            os.write(told, f"{child} {path}".encode())
            signal.pause()
    child, path = os.read(ready, 4096).decode().split(" ", 1)
    try:
        with abandoned(path) as gone:
            assert not gone
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        with abandoned(path) as gone:
            assert gone
    finally:
        os.kill(int(child), signal.SIGKILL)
        os.close(ready)
        os.close(told)


def test_a_published_folder_is_held_by_nobody(tmp_path):
    """Not even by a child that was forked while it was written."""
    with staging_folder(str(tmp_path)) as (path, fd):
        copy = os.dup(fd)
    try:
        again = os.open(path, os.O_RDONLY)
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(again)
    finally:
        os.close(copy)


@pytest.mark.parametrize("umask", [0o177, 0o277, 0o377, 0o700, 0o777])
def test_an_odd_umask_spoils_the_root_for_nobody(tmp_path, umask):
    """Who comes later finds a staging area to work in."""
    script = (
        "import os, sys; from llem.store.staging import new_place; os.umask(int(sys.argv[1])); "
    )
    script += "new_place(sys.argv[2])"
    subprocess.run([sys.executable, "-c", script, str(umask), tmp_path], check=True)

    assert (tmp_path / ".llem-tmp").stat().st_mode & 0o700 == 0o700


def test_a_folder_of_somebody_else_stays(store):
    """It has a name of its own and other files, one of which is called as ours are."""
    photos = store.root / "photos"
    photos.mkdir(parents=True)
    (photos / "result.json").write_text("{}")
    (photos / "cat.jpg").write_text("a cat")
    before = files_under(store.root)

    repaired = store.repair()

    assert repaired.moved == ()
    assert [fault.key for fault in repaired.left] == ["photos"]
    assert "holds more than a result, and stays" in repaired.left[0].message
    assert files_under(store.root) == before


def test_what_is_called_as_our_files_is_looked_at(store):
    """A folder under the name of a file is somebody's."""
    (store.root / "photos" / "result.json").mkdir(parents=True)

    repaired = store.repair()

    assert [fault.kind for fault in repaired.left] == ["access"]
    assert repaired.moved == ()


def test_a_result_under_another_name_is_moved(store):
    kept = store.put(small_result(), timeseries=small_table())
    folder = Path(kept).parent.rename(store.root / "baseline")
    (folder / "result.json").write_text("{")

    assert [moved.key for moved in store.repair().moved] == ["baseline"]


def test_a_damaged_result_with_a_note_beside_it_is_moved_as_a_whole(store):
    kept = store.put(small_result())
    (Path(kept).parent / "note.txt").write_text("a note")
    Path(kept).write_text("{")

    (moved,) = store.repair().moved

    assert sorted(os.listdir(moved.to)) == ["note.txt", "result.json"]


AREAS = [".llem-tmp", ".llem-aside"]


def of_a_folder_elsewhere(path):
    elsewhere = path.parent.parent / "elsewhere"
    shutil.copytree(path.parent / NAME, elsewhere / NAME, dirs_exist_ok=True)
    path.symlink_to(elsewhere)


def names_under(path):
    return sorted(map(str, path.rglob("*")))


NO_FOLDERS = {
    "to-the-root": lambda path: path.symlink_to("."),
    "elsewhere": of_a_folder_elsewhere,
    "dangling": lambda path: path.symlink_to("nowhere"),
    "file": lambda path: path.write_text("theirs"),
}


@pytest.fixture(params=NO_FOLDERS)
def without_areas(request, store):
    """A good result, a torn one, and no area."""
    put(store, 0)
    torn = put(store, 1)
    os.truncate(torn.path, 100)
    shutil.rmtree(store.root / ".llem-tmp")
    return lambda area: NO_FOLDERS[request.param](store.root / area)


@pytest.mark.parametrize("area", AREAS)
def test_an_area_that_is_no_folder_is_named_and_not_used(
    store, without_areas, area, tmp_path, monkeypatch
):
    """Nothing is listed through a link, nor moved."""
    without_areas(area)
    path = str(store.root / area)
    before = names_under(tmp_path)
    after(monkeypatch, 1e6)

    faults = store.verify().faults
    with pytest.raises(StoreWriteError, match=f"{path} is a (symbolic link|file)"):
        store.repair()

    assert [(fault.key, fault.kind, fault.path) for fault in faults[1:]] == [(area, "area", path)]
    assert path in faults[1].message
    assert names_under(tmp_path) == before


def test_nothing_is_put_or_removed_by_way_of_a_link(store, without_areas, tmp_path):
    without_areas(".llem-tmp")
    before = names_under(tmp_path)
    said = f"{store.root}/.llem-tmp is a (symbolic link|file)"

    with pytest.raises(StoreWriteError, match=said):
        store.put(small_result())
    with pytest.raises(StoreWriteError, match=said):
        store.check_writable()
    with pytest.raises(StoreWriteError, match=said):
        store.remove(NAME)

    assert names_under(tmp_path) == before
