"""What was put is whole and kept, or nothing of it is there, whatever the disk does meanwhile."""

import errno
import os
import resource
import stat
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sample import sample_result
from seam import FileByFileOs, OneCall, WatchedOs, failing

import llem.store.blocks
from llem.errors import (
    CommitUnknownError,
    ResultValidationError,
    SidecarIntegrityError,
    SidecarSchemaError,
    StoreWriteError,
)
from llem.store import ResultStore
from llem.testing import small_result, small_table

NAME = "gpt2_pytorch_2026-03-13T14-21"

ROOT = [("open", "parent"), ("fsync", "parent"), ("close", "parent")]
STAGING = [
    ("mkdir", "root"),
    *ROOT,
    ("mkdir", ".llem-tmp"),
    ("mkdir", "staging"),
    ("open", "staging"),
    *[(call, "timeseries.parquet") for call in ("open", "write", "fsync", "close")],
    *[(call, "result.json") for call in ("open", "write", "fsync", "close")],
    ("fsync", "staging"),
]
PUBLISHING = [("mkdir", NAME), ("rename", "staging")]
LETTING_GO = [("close", "staging")]
AFTER = [(call, "root") for call in ("open", "fsync", "close")]
CALLS = [*STAGING, *PUBLISHING, *LETTING_GO, *AFTER]
BEFORE_COMMIT = range(len(STAGING) + len(PUBLISHING))
ALL = range(len(CALLS))

FAULTS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.EINTR]


def name_of(index):
    return f"{index}-{CALLS[index][0]}-{CALLS[index][1]}"


def interrupted(real, *args):
    if real is os.close:
        real(*args)
    raise KeyboardInterrupt


def interrupted_after(real, *args):
    out = real(*args)
    if real is os.open:
        os.close(out)
    raise KeyboardInterrupt


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def store(root):
    return ResultStore(root)


@pytest.fixture
def faulty(monkeypatch):
    def install(at=None, do=None):
        return WatchedOs(at, do).install(monkeypatch)

    return install


@pytest.fixture(params=["table", "file"])
def put(store, monkeypatch, request, tmp_path):
    """Puts a result with its samples, in memory or in a file; the faults end with the call."""
    samples = small_table()
    if request.param == "file":
        samples = tmp_path / "samples.parquet"
        pq.write_table(small_table(), samples)

    def do():
        try:
            return store.put(small_result(), timeseries=samples)
        finally:
            monkeypatch.undo()

    return do


def left_in(root):
    """Everything under *root* but the staging area itself."""
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.name != ".llem-tmp")


def assert_nothing_left(root, descriptors):
    assert left_in(root) == []
    assert open_descriptors() == descriptors


def assert_works(store):
    """The next put has the plain name: no claim was left."""
    kept = store.put(small_result(), timeseries=small_table())

    assert [kept.key] == [NAME] == list(store)
    assert store.get(kept) == kept.result
    assert store.timeseries(kept) == small_table()
    assert left_in(store.root) == [NAME, f"{NAME}/result.json", f"{NAME}/timeseries.parquet"]


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def described(call, path, root):
    """A recorded call, with the part that its path plays."""
    inside = Path(path).relative_to(root.parent)
    parts = inside.parts[1:]
    if not inside.parts:
        return call, "parent"
    if not parts:
        return call, "root"
    if len(parts) == 2 and parts[0] == ".llem-tmp":
        return call, "staging"
    return call, parts[-1]


def test_the_order_of_a_commit(root, faulty, put):
    """Bytes before names, the claim before the rename, and each of them synced."""
    recorder = faulty()

    put()

    assert [described(*call, root) for call in recorder.calls] == CALLS


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("index", BEFORE_COMMIT, ids=name_of)
def test_a_fault_before_the_commit_leaves_nothing(store, faulty, put, index, number):
    """At each call: the error names the root, nothing is visible or left, the next put works."""
    before = open_descriptors()
    recorder = faulty(index, failing(number))

    with pytest.raises(StoreWriteError) as caught:
        put()

    assert len(recorder.calls) > index
    assert isinstance(caught.value, OSError)
    assert str(store.root) in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert list(store) == []
    assert_nothing_left(store.root, before)
    assert_works(store)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "space"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission"),
        (errno.EPERM, "permission"),
        (errno.EROFS, "read-only"),
        (errno.EFBIG, "larger than a file may be"),
        (errno.EIO, "check the path"),
    ],
    ids=errno.errorcode.get,
)
def test_a_fault_says_what_to_do(faulty, put, number, advice):
    faulty(len(STAGING), failing(number))

    with pytest.raises(StoreWriteError, match=advice):
        put()


@pytest.mark.parametrize("step", [("unlink", ""), ("rmdir", ".llem-tmp"), ("rmdir", NAME)])
def test_without_the_clean_up_a_fault_is_seen(store, monkeypatch, put, step):
    """The same look, with one step of it left out."""
    rename = CALLS.index(("rename", "staging"))
    WatchedOs(rename, failing(errno.EIO), OneCall(*step)).install(monkeypatch)

    with pytest.raises(StoreWriteError):
        put()

    assert left_in(store.root) != []


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("index", ALL[-len(AFTER) :], ids=name_of)
def test_a_fault_after_the_commit_is_told(store, faulty, put, index, number):
    """The result is there, and its path is named; the root is not synced once more."""
    before = open_descriptors()
    recorder = faulty(index, failing(number))

    with pytest.raises(CommitUnknownError) as caught:
        put()

    assert isinstance(caught.value, OSError)
    assert not isinstance(caught.value, StoreWriteError)
    assert str(store.root / NAME) in str(caught.value)
    assert sum(call == ("fsync", str(store.root)) for call in recorder.calls) <= 1
    assert open_descriptors() == before
    assert list(store) == [NAME]
    assert store.get(NAME).total_tokens == small_result().total_tokens
    assert store.verify().faults == ()


def test_a_fault_at_letting_go_of_the_lock_is_no_matter(store, faulty, put):
    """The result is published by then, and the lock goes with the process at the latest."""
    before = open_descriptors()
    faulty(CALLS.index(*LETTING_GO), failing(errno.EIO))

    kept = put()

    assert list(store) == [kept.key]
    assert open_descriptors() == before


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.ESTALE], ids=errno.errorcode.get)
def test_a_rename_that_took_place_after_all_counts(store, faulty, put, number):
    """The reply of a file server was lost: the result is there, once."""
    faulty(CALLS.index(("rename", "staging")), failing(number, after=True))

    kept = put()

    assert [kept.key] == [NAME] == list(store)
    assert store.get(kept) == kept.result
    assert len(left_in(store.root)) == 3


@pytest.mark.parametrize("index", ALL, ids=name_of)
def test_an_interrupt_leaves_nothing(store, faulty, put, index):
    """Ctrl-C instead of each call: nothing is left; after the rename: the whole result is there."""
    before = open_descriptors()
    faulty(index, interrupted)

    with pytest.raises(KeyboardInterrupt):
        put()

    assert open_descriptors() == before
    if index in BEFORE_COMMIT:
        assert_nothing_left(store.root, before)
        assert_works(store)
    else:
        assert list(store) == [NAME]
        assert store.verify().faults == ()


@pytest.mark.parametrize("index", ALL, ids=name_of)
def test_an_interrupt_after_a_call_shows_the_whole_result_or_none(store, faulty, put, index):
    """Ctrl-C once the call took place: what is listed is whole, and the next put works."""
    faulty(index, interrupted_after)

    with pytest.raises(KeyboardInterrupt):
        put()

    seen = [NAME] if index >= CALLS.index(("rename", "staging")) else []
    assert list(store) == seen
    kept = put()
    assert {fault.kind for fault in store.verify().faults} <= {"claim"}
    assert list(store) == [*seen, kept.key]


@pytest.mark.parametrize("change", ["cut", "spoilt"])
def test_a_file_that_is_changed_while_it_is_put_leaves_nothing(
    store, faulty, monkeypatch, tmp_path, change
):
    """It was whole when it was looked at, and is not what it was once it is written."""
    path, table = tmp_path / "samples.parquet", pa.concat_tables([small_table()[:2]] * 50_000)
    pq.write_table(table, path, compression="none", use_dictionary=False)
    before, size = open_descriptors(), path.stat().st_size

    def spoil(real, *args):
        with path.open("r+b") as file:
            if change == "cut":
                file.truncate(size // 8)
            else:
                file.seek(size // 8)
                file.write(b"\xff" * (size // 2))
        return real(*args)

    faulty(CALLS.index(("open", "timeseries.parquet")), spoil)
    with pytest.raises((SidecarIntegrityError, SidecarSchemaError), match=r"samples\.parquet"):
        store.put(small_result(), timeseries=path)
    monkeypatch.undo()

    assert_nothing_left(store.root, before)
    assert_works(store)


def test_many_rows_are_written_in_parts(store, faulty, tmp_path, monkeypatch):
    """Of a file: each row group as it comes about, and the digest is that of all of them."""
    monkeypatch.setattr(llem.store.blocks, "GROUP_ROWS", 2**12)
    monkeypatch.setattr(llem.store.blocks, "PART_BYTES", 2**12)
    path, table = tmp_path / "samples.parquet", pa.concat_tables([small_table()[:2]] * 20_000)
    pq.write_table(table, path)
    recorder = faulty()

    kept, same = [store.put(small_result(), timeseries=samples) for samples in (path, table)]

    written = [path for call, path in recorder.calls if call == "write"]
    assert sum("timeseries" in path for path in written) > 2
    assert store.verify().faults == ()
    assert store.timeseries(kept) == table
    files = [Path(one).with_name("timeseries.parquet").read_bytes() for one in (kept, same)]
    assert files[0] == files[1]


def test_short_writes_are_continued(store, monkeypatch, put):
    """A write may take less than it was given."""
    short = WatchedOs().install(monkeypatch)
    real = os.write
    monkeypatch.setattr(short, "write", lambda fd, left: real(fd, left[:100]), raising=False)

    kept = put()

    assert store.get(kept) == kept.result
    assert store.timeseries(kept) == small_table()


def test_a_disk_that_fills_up_within_a_file_leaves_nothing(store, monkeypatch, put):
    """The first write takes a part, the second nothing."""
    full, taken = WatchedOs().install(monkeypatch), []

    def write(fd, left):
        if taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken.append(os.write(fd, left[:100]))
        return taken[0]

    monkeypatch.setattr(full, "write", write, raising=False)
    before = open_descriptors()

    with pytest.raises(StoreWriteError, match="space"):
        put()

    assert taken == [100]
    assert_nothing_left(store.root, before)
    assert_works(store)


def put_between(root, monkeypatch, kind, index, **left_out):
    """Put a result, and another just before a call of that put; gives what was kept, by key."""
    store, others = ResultStore(root), []

    def other(real, *args):
        others.append(store.put(small_result(total_tokens=1), timeseries=small_table()))
        return real(*args)

    kind(index, other, **left_out).install(monkeypatch)
    try:
        kept = store.put(small_result(total_tokens=0), timeseries=small_table())
    finally:
        monkeypatch.undo()
    return {one.key: one.result for one in (kept, *others)}


@pytest.mark.parametrize("index", ALL, ids=name_of)
def test_another_put_between_any_two_calls(root, monkeypatch, index):
    """Both are kept, whole, the one beside the other."""
    both = put_between(root, monkeypatch, WatchedOs, index)

    store = ResultStore(root)
    assert list(store) == sorted(both) == [NAME, f"{NAME}_1"]
    assert {key: store.get(key) for key in store} == both
    assert store.verify().faults == ()


def test_without_the_claim_and_the_rename_as_a_whole_another_put_is_seen(root, monkeypatch):
    """The one overwrites the other."""
    index = CALLS.index(("rename", "staging"))

    both = put_between(root, monkeypatch, FileByFileOs, index, left_out=OneCall("mkdir", NAME))

    assert list(ResultStore(root)) == list(both) == [NAME]


@pytest.mark.parametrize("claims", [True, False])
def test_the_claim_keeps_the_empty_folder_of_another(root, monkeypatch, claims):
    """A rename alone would take its place."""
    taken = root / NAME

    def mkdir(real, path):
        os.mkdir(path)
        return real(path) if claims else None

    WatchedOs(CALLS.index(("mkdir", NAME)), mkdir).install(monkeypatch)
    ResultStore(root).put(small_result(), timeseries=small_table())

    assert (os.listdir(taken) == []) == claims


def fill(final):
    (final / "result.json").write_text("theirs")


def replace_by_file(final):
    final.rmdir()
    final.write_text("theirs")


@pytest.mark.parametrize("other", [fill, replace_by_file])
def test_a_claim_that_another_took_is_theirs(store, faulty, put, other):
    """A writer that does not claim gets between claim and rename: the next suffix is ours."""

    def rename(real, staging, final):
        other(Path(final))
        real(staging, final)

    faulty(CALLS.index(("rename", "staging")), rename)

    kept = put()

    assert kept.key == f"{NAME}_1"
    assert store.get(kept) == kept.result
    theirs = store.root / NAME
    assert (theirs / "result.json" if theirs.is_dir() else theirs).read_text() == "theirs"


def test_a_failed_rename_over_the_result_of_another_is_no_commit(store, faulty, put):
    """What lies there does not bear our commit id: nothing was written, and it stays."""

    def rename(real, staging, final):
        fill(Path(final))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    faulty(CALLS.index(("rename", "staging")), rename)

    with pytest.raises(StoreWriteError):
        put()

    assert left_in(store.root) == [NAME, f"{NAME}/result.json"]
    assert (store.root / NAME / "result.json").read_text() == "theirs"


@pytest.fixture
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], indirect=True, ids=oct)
def test_modes_follow_the_umask(store, umask):
    """So that what the one writes, the group may read."""
    kept = store.put(small_result(), timeseries=small_table())

    folder = Path(kept).parent
    for path in (store.root, folder):
        assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask
    for path in (folder / "result.json", folder / "timeseries.parquet"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize(
    ("samples", "names"),
    [(None, ["result.json"]), ("some", ["result.json", "timeseries.parquet"])],
)
def test_a_folder_holds_its_files_and_nothing_else(store, samples, names):
    kept = store.put(small_result(), timeseries=samples and small_table())

    assert sorted(os.listdir(Path(kept).parent)) == names
    assert os.listdir(store.root / ".llem-tmp") == []
    assert sorted(os.listdir(store.root)) == [".llem-tmp", kept.key]


def test_the_root_and_its_parents_are_made(tmp_path, faulty):
    """Each is synced into its parent, or it could vanish with a power cut."""
    recorder = faulty()
    root = tmp_path / "a" / "b" / "c"

    kept = ResultStore(root).put(small_result())

    assert Path(kept) == root / NAME / "result.json"
    made = [path for call, path in recorder.calls if call == "mkdir"][:3]
    assert made == [str(tmp_path / "a"), str(tmp_path / "a" / "b"), str(root)]
    synced = [path for call, path in recorder.calls if call == "fsync"][:3]
    assert synced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 8, 9])
def test_the_first_free_suffix_is_taken(store, faulty, put, count):
    """Among many of one name none is tried in turn that is seen to be taken."""
    keys = [store.put(small_result()).key for _ in range(count)]
    recorder = faulty()

    kept = put()

    assert kept.key == f"{NAME}_{count}"
    assert list(store) == [*keys, kept.key]
    claims = [path for call, path in recorder.calls if call == "mkdir" and NAME in path]
    assert claims == [str(store.root / kept.key)]


def test_a_relative_root_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    kept = ResultStore("some/results").put(small_result())

    assert (tmp_path / "some" / "results" / NAME / "result.json").is_file()
    assert kept.path == f"some/results/{NAME}/result.json"
    assert ResultStore("some/results").get(kept) == kept.result


def test_a_root_that_another_makes_meanwhile_is_used(store, faulty, put):
    """Two first writers: the one finds the directory of the other."""

    def mkdir(real, path):
        real(path)
        real(path)

    faulty(0, mkdir)

    assert put().key == NAME


def test_a_bad_value_never_touches_the_disk(store, tmp_path):
    """Not in a record, and not in a file of samples, wherever in it."""
    path = tmp_path / "samples.parquet"
    pq.write_table(pa.concat_tables([small_table(), small_table()]), path)

    with pytest.raises(ResultValidationError):
        store.put(small_result(timeseries="timeseries.parquet"))
    with pytest.raises(SidecarSchemaError, match="must not decrease"):
        store.put(small_result(), timeseries=path)
    pq.write_table(small_table(), path)
    with pytest.raises(ResultValidationError, match="max_json_bytes"):
        ResultStore(store.root, max_json_bytes=100).put(small_result(), timeseries=path)

    assert not store.root.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB of its own, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "llem", str(disk)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("needs to mount a tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_nothing(small_disk):
    store = ResultStore(small_disk / "root")
    before = open_descriptors()

    with pytest.raises(StoreWriteError, match="space"):
        store.put(sample_result(8, 2000))

    assert_nothing_left(store.root, before)
    assert_works(store)


def test_a_disk_that_fills_up_keeps_what_was_put(small_disk):
    """And takes another result once one of them is removed."""
    store = ResultStore(small_disk / "root")
    with pytest.raises(StoreWriteError, match="space"):
        for number in range(1000):
            store.put(small_result(total_tokens=number), timeseries=small_table())

    keys = [*store]
    assert [store.get(key).total_tokens for key in keys] == list(range(len(keys)))
    assert store.verify().faults == ()
    store.remove(keys[1])
    assert store.put(small_result(), timeseries=small_table()).key == keys[1]


def test_a_disk_mounted_read_only_is_told(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    for attempt in (lambda s: s.put(small_result()), ResultStore.check_writable):
        with pytest.raises(StoreWriteError, match="read-only"):
            attempt(ResultStore(small_disk))


def test_a_result_larger_than_a_file_may_be_leaves_nothing(store):
    before = open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(StoreWriteError, match="larger than a file may be"):
            store.put(sample_result(8, 2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert_nothing_left(store.root, before)
    assert_works(store)


def plain_file(root):
    root.write_text("theirs")
    return root


def under_a_plain_file(root):
    root.write_text("theirs")
    return root / "deeper" / "still"


def dangling_link(root):
    root.symlink_to("nowhere")
    return root


def under_a_dangling_link(root):
    root.symlink_to("nowhere")
    return root / "deeper"


@pytest.mark.parametrize(
    "place", [plain_file, under_a_plain_file, dangling_link, under_a_dangling_link]
)
@pytest.mark.parametrize("attempt", ["put", "check_writable"])
def test_a_root_that_cannot_be_made_is_told(root, place, attempt):
    """What is in the way stays what it is."""
    store = ResultStore(place(root))
    before = sorted(root.parent.iterdir())

    with pytest.raises(StoreWriteError, match="Not a directory") as caught:
        store.put(small_result()) if attempt == "put" else store.check_writable()

    assert str(store.root) in str(caught.value)
    assert sorted(root.parent.iterdir()) == before
    assert root.is_symlink() or root.read_text() == "theirs"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("attempt", ["put", "check_writable"])
def test_a_root_without_write_permission_is_told(root, attempt):
    root.mkdir(mode=0o555)

    with pytest.raises(StoreWriteError, match="permission"):
        store = ResultStore(root)
        store.put(small_result()) if attempt == "put" else store.check_writable()

    assert list(root.iterdir()) == []


def test_a_root_behind_a_link_is_used(tmp_path, root):
    (tmp_path / "elsewhere").mkdir()
    root.symlink_to("elsewhere")
    store = ResultStore(root)

    kept = store.put(small_result())

    assert list(store) == [kept.key]
    assert (tmp_path / "elsewhere" / kept.key / "result.json").is_file()


TAKEN = {
    "empty folder": lambda path: path.mkdir(),
    "file": lambda path: path.write_text("theirs"),
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "link to a folder": lambda path: path.symlink_to(path.parent, target_is_directory=True),
    "fifo": os.mkfifo,
}


@pytest.mark.parametrize("kind", TAKEN)
def test_a_taken_name_gets_a_suffix(store, kind):
    """What has the name is left as it is, its times included."""
    store.root.mkdir()
    taken = store.root / NAME
    TAKEN[kind](taken)
    before = taken.lstat()

    kept = [store.put(small_result()).key for _ in range(2)]

    assert kept == [f"{NAME}_1", f"{NAME}_2"] == list(store)
    assert taken.lstat()[:9] == before[:9]
    assert taken.lstat().st_mtime_ns == before.st_mtime_ns
    if kind == "file":
        assert taken.read_text() == "theirs"


def test_check_writable_makes_the_root_and_leaves_nothing_in_it(store):
    before = open_descriptors()

    store.check_writable()

    assert_nothing_left(store.root, before)
    assert store.root.is_dir()
    assert_works(store)


CHECKING = [*STAGING[:7], *[(call, "staging") for call in ("fsync", "rmdir", "close")]]


def test_check_writable_tries_what_a_put_does(root, store, faulty):
    """It makes a folder in the staging area, and syncs it."""
    recorder = faulty()

    store.check_writable()

    assert [described(*call, root) for call in recorder.calls] == CHECKING


@pytest.mark.parametrize("index", range(len(CHECKING) - 1), ids=lambda i: "-".join(CHECKING[i]))
def test_check_writable_tells_each_fault(store, faulty, index):
    before = open_descriptors()
    faulty(index, failing(errno.EACCES))

    with pytest.raises(StoreWriteError, match="permission") as caught:
        store.check_writable()

    assert str(store.root) in str(caught.value)
    assert_nothing_left(store.root, before)


def test_a_file_system_that_renames_over_no_folder(tmp_path, monkeypatch):
    """Not even over an empty one: the claim is taken away again, and the put ends."""
    real = os.rename

    def strict(source, target):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, "File exists")
        real(source, target)

    monkeypatch.setattr(os, "rename", strict)
    store = ResultStore(tmp_path)

    keys = [store.put(small_result()).key for _ in range(3)]

    assert list(store) == keys
    assert len(set(keys)) == 3
