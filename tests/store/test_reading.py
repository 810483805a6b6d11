"""Reading meets anything: it is bounded, follows no links, never waits, and changes nothing."""

import contextlib
import os
import signal
import socket
import tracemalloc
from pathlib import Path

import attrs
import pytest

import llem
from llem.codec import to_json, to_stored_json
from llem.errors import (
    InvalidNameError,
    MalformedResultError,
    ResultAccessError,
    ResultIntegrityError,
    ResultNotFoundError,
    SidecarIntegrityError,
    SidecarMissingWarning,
    SidecarPathError,
    SidecarUnverifiedWarning,
)
from llem.store import MemoryStore, ResultStore
from llem.testing import small_result, small_table


@pytest.fixture(autouse=True)
def _no_waiting():
    """A test that waits for a FIFO fails, rather than to wait for ever."""

    def too_long(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "root")


@pytest.fixture
def kept(store):
    return store.put(small_result())


@pytest.fixture
def sampled(store):
    return store.put(small_result(), timeseries=small_table())


def link(path, target):
    path.symlink_to(target)


def unix_socket(path, target):
    here = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL = {
    "link to a result": (link, "../other/result.json", "symbolic link"),
    "dangling link": (link, "nowhere", "symbolic link"),
    "link to itself": (link, "result.json", "symbolic link"),
    "link to a device": (link, "/dev/zero", "symbolic link"),
    "fifo": (lambda path, _: os.mkfifo(path), None, "FIFO"),
    "folder": (lambda path, _: path.mkdir(), None, "directory"),
    "socket": (unix_socket, None, "socket"),
}


@pytest.fixture(params=SPECIAL)
def special(request, tmp_path):
    """Puts something that is no regular file in the place of one; gives what names it."""
    other = tmp_path / "root" / "other"
    other.mkdir(parents=True)
    (other / "result.json").write_bytes(to_json(small_result()))
    make, target, word = SPECIAL[request.param]

    def replace(path):
        path.unlink()
        make(path, target)
        return word

    return replace


def test_what_is_no_regular_file_is_refused(store, kept, special):
    """The key, the folder and the file: the message has the path, and what lies there."""
    path = Path(kept)
    word = special(path)

    for key in (kept, kept.key, path.parent, path, str(path)):
        for read in (store.get, store.timeseries):
            with pytest.raises(ResultAccessError, match=word) as caught:
                read(key)
            assert isinstance(caught.value, OSError)
            assert str(path) in str(caught.value)
    for place in (path, path.parent):
        with pytest.raises(ResultAccessError, match=word):
            llem.load(place)


def test_what_is_no_regular_file_is_listed_and_verified(store, kept, special):
    """It does not hide the others, and `verify` names it."""
    special(Path(kept))

    assert sorted(store) == sorted([kept.key, "other"])
    assert [(f.key, f.kind) for f in store.verify().faults] == [(kept.key, "access")]


def test_a_sidecar_that_is_no_regular_file_is_refused(store, sampled, special):
    """The result is read all the same: `get` never opens the sidecar."""
    path = Path(sampled).with_name("timeseries.parquet")
    word = special(path)

    assert store.get(sampled) == sampled.result
    with pytest.raises(ResultAccessError, match=word) as caught:
        store.timeseries(sampled)
    assert str(path) in str(caught.value)


def test_a_device_is_refused():
    with pytest.raises(ResultAccessError, match="/dev/null: is a device"):
        llem.load("/dev/null")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_file_without_read_permission_is_refused(store, kept):
    Path(kept).chmod(0)

    with pytest.raises(ResultAccessError, match="ermission") as caught:
        store.get(kept)
    assert kept.path in str(caught.value)


def test_a_missing_result_is_not_found(store, kept):
    missing = store.root / "missing"

    for key in ("missing", missing, missing / "result.json", str(missing), kept.path + "/x"):
        with pytest.raises(ResultNotFoundError) as caught:
            store.get(key)
        assert isinstance(caught.value, FileNotFoundError)
        assert "missing" in str(caught.value) or kept.path in str(caught.value)
    with pytest.raises(ResultNotFoundError, match="missing"):
        llem.load(missing)


@pytest.mark.parametrize("path", ["", "\0", "run\0x", "/run\0x", "run/\0"], ids=repr)
def test_what_is_no_path_is_not_found(store, path):
    for read in (store.get, store.timeseries, llem.load):
        with pytest.raises(ResultNotFoundError):
            read(path)
    assert path not in store


def test_a_claim_is_not_found(store, kept):
    """An empty folder, as a writer leaves that died: it is not listed either."""
    claim = store.root / f"{kept.key}_1"
    claim.mkdir()

    for key in (claim.name, claim, str(claim)):
        with pytest.raises(ResultNotFoundError, match=claim.name):
            store.get(key)
    assert list(store) == [kept.key]
    assert claim.name not in store


def test_a_plain_file_in_the_place_of_a_folder(store, kept):
    """By its key there is no result; by its path it is read, and is no JSON."""
    path = store.root / "file"
    path.write_text("theirs")

    with pytest.raises(ResultNotFoundError, match="file"):
        store.get("file")
    with pytest.raises(MalformedResultError, match="file"):
        store.get(path)
    assert list(store) == [kept.key]


def test_a_file_of_any_name_can_be_loaded(tmp_path):
    path = tmp_path / "copy.json"
    path.write_bytes(to_json(small_result()))

    for form in (path, str(path)):
        assert llem.load(form) == small_result()


def test_every_form_of_a_key_is_read(store, sampled, monkeypatch):
    path = Path(sampled)
    monkeypatch.chdir(store.root)
    forms = [
        sampled,
        sampled.key,
        path,
        str(path),
        path.parent,
        str(path.parent),
        f"{path.parent}/",
        f"./{sampled.key}",
        f"{sampled.key}/result.json",
        Path(sampled.key),
    ]

    for form in forms:
        assert store.get(form) == sampled.result, form
        assert store.timeseries(form) == small_table(), form
        assert form in store, form


def test_what_another_store_kept_is_not_found(store, sampled):
    """Not even where the name is the same: it is not the same result."""
    other = MemoryStore()
    theirs = other.put(small_result())

    with pytest.raises(ResultNotFoundError, match="a store without files"):
        store.get(theirs)
    with pytest.raises(ResultNotFoundError):
        other.get(sampled)
    assert theirs not in store
    assert sampled not in other


def test_a_path_outside_the_root_is_not_in_the_store(store, sampled, tmp_path):
    elsewhere = ResultStore(tmp_path / "elsewhere")
    theirs = elsewhere.put(small_result())

    assert theirs not in store
    assert theirs.path not in store
    assert Path("/proc/self/mem") not in store


@pytest.mark.parametrize("key", [b"x", None, 5])
def test_what_is_neither_text_nor_path_names_nothing(store, key):
    with pytest.raises(InvalidNameError, match="must be a str or a path"):
        store.get(key)
    with pytest.raises(InvalidNameError, match="must be a str or a path"):
        llem.load(key)


def test_a_path_is_read_whatever_the_root_is(tmp_path, sampled):
    """A path names a result by itself."""
    elsewhere = ResultStore(tmp_path / "elsewhere")

    for form in (sampled, sampled.path, Path(sampled).parent):
        assert elsewhere.get(form) == sampled.result
    with pytest.raises(ResultNotFoundError):
        elsewhere.get(sampled.key)


def test_a_result_can_be_loaded_without_a_store(sampled):
    path = Path(sampled)

    for form in (path.parent, str(path.parent), path, str(path), sampled):
        assert llem.load(form) == sampled.result


def test_a_huge_document_is_refused_before_it_is_read(store, kept):
    """1 GiB that takes no disk, and must take no memory."""
    os.truncate(kept.path, 2**30)

    tracemalloc.start()
    try:
        with pytest.raises(MalformedResultError, match=r"1073741824 bytes, over the limit"):
            store.get(kept)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_huge_sidecar_is_refused_before_it_is_read(store, sampled):
    path = Path(sampled).with_name("timeseries.parquet")
    os.truncate(path, 2**30)

    tracemalloc.start()
    try:
        with pytest.raises(SidecarIntegrityError, match=r"1073741824 bytes, over the limit") as e:
            store.timeseries(sampled)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    assert str(path) in str(e.value)


def test_the_limit_of_a_document_is_the_callers(store, kept):
    size = os.path.getsize(kept.path)

    assert ResultStore(store.root, max_json_bytes=size).get(kept) == kept.result
    with pytest.raises(MalformedResultError, match=f"{size} bytes, over the limit of {size - 1}"):
        ResultStore(store.root, max_json_bytes=size - 1).get(kept)


def test_the_limit_of_a_time_series_is_the_callers(store, sampled):
    rows = small_table().num_rows

    assert ResultStore(store.root, max_rows=rows).timeseries(sampled) == small_table()
    with pytest.raises(SidecarIntegrityError, match=f"{rows} rows, over the limit of {rows - 1}"):
        ResultStore(store.root, max_rows=rows - 1).timeseries(sampled)


def test_an_orphan_sidecar_is_no_part_of_a_result(store, kept):
    Path(kept).with_name("timeseries.parquet").write_bytes(b"PAR1")

    assert store.get(kept).timeseries is None
    assert store.timeseries(kept) is None
    assert store.verify().faults == ()


def test_a_result_outlives_its_sidecar(store, sampled):
    path = Path(sampled).with_name("timeseries.parquet")
    path.unlink()

    for read in (store.get, llem.load):
        with pytest.warns(SidecarMissingWarning) as met:
            assert read(sampled) == attrs.evolve(sampled.result, timeseries=None)
        assert [str(path) in str(warning.message) for warning in met] == [True]
        assert met[0].filename == __file__
    with pytest.warns(SidecarMissingWarning):
        assert store.timeseries(sampled) is None


@pytest.mark.parametrize("written", [to_json, lambda result: stored(result, {})])
def test_a_sidecar_without_a_digest_is_taken_on_trust(store, sampled, written):
    """As other tools write it: told, and read."""
    Path(sampled).write_bytes(written(sampled.result))

    assert store.get(sampled) == sampled.result
    with pytest.warns(SidecarUnverifiedWarning, match=r"timeseries\.parquet") as met:
        assert store.timeseries(sampled) == small_table()
    assert len(met) == 1
    assert met[0].filename == __file__


def stored(result, sidecars):
    return to_stored_json(result, commit_id="x", sidecars=sidecars)


def test_each_flipped_bit_of_a_record_is_met(store, sampled):
    """Or changes nothing of it: the name of its writing, the last digit of a double."""
    path = Path(sampled)
    content = path.read_bytes()

    changed = 0
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with contextlib.suppress(llem.LlemError):
            assert store.get(sampled) == sampled.result
            assert store.timeseries(sampled) == small_table()
            changed += 1
    assert changed < 0.04 * 8 * len(content)
    path.write_bytes(content)
    assert store.get(sampled) == sampled.result


def test_digests_of_other_files_are_refused(store, sampled):
    """One bit may change which file a digest is of, and that one would go unread."""
    path = Path(sampled)
    name, other = b'"timeseries.parquet": {', b'"uimeseries.parquet": {'
    path.write_bytes(path.read_bytes().replace(name, other))

    with pytest.raises(ResultIntegrityError, match=r"uimeseries.*\$\.integrity\.sidecars"):
        store.get(sampled)


def test_a_record_without_its_sidecars_digest_is_unverified(store, sampled):
    """It has one of itself, which says nothing of the samples."""
    Path(sampled).write_bytes(stored(sampled.result, {}))

    assert store.verify().unverified == (sampled.key,)


def test_a_sidecar_of_another_size_than_was_noted_is_met(store, sampled):
    """The count of bytes is held against the file too."""
    path = Path(sampled)
    size = path.with_name("timeseries.parquet").stat().st_size
    path.write_bytes(path.read_bytes().replace(b'"bytes": %d' % size, b'"bytes": %d' % (size + 1)))

    with pytest.raises(SidecarIntegrityError, match="size differ"):
        store.timeseries(sampled)


def test_each_flipped_bit_of_a_sidecar_is_met(store, sampled):
    """One bit of every seventh byte, whatever it would have meant."""
    path = Path(sampled).with_name("timeseries.parquet")
    content = path.read_bytes()

    for place in range(0, len(content), 7):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        with pytest.raises(SidecarIntegrityError, match="SHA-256") as caught:
            store.timeseries(sampled)
        assert str(path) in str(caught.value)
    path.write_bytes(content)
    assert store.timeseries(sampled) == small_table()


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b + b"\0", lambda _: b""])
def test_a_sidecar_of_another_size_is_met(store, sampled, change):
    path = Path(sampled).with_name("timeseries.parquet")
    path.write_bytes(change(path.read_bytes()))

    assert store.get(sampled) == sampled.result
    with pytest.raises(SidecarIntegrityError, match="SHA-256"):
        store.timeseries(sampled)


@pytest.mark.parametrize(
    "name", ["../secret.parquet", "/etc/passwd", "other.parquet", "Timeseries.parquet", "", "."]
)
def test_a_sidecar_of_another_name_is_refused(store, sampled, name):
    """As a name, before anything of that name is looked at."""
    (store.root / "secret.parquet").write_bytes(b"PAR1")
    Path(sampled).with_name("other.parquet").write_bytes(b"PAR1")
    text = to_json(sampled.result).replace(b'"timeseries.parquet"', b'"%s"' % name.encode())
    Path(sampled).write_bytes(text)

    for read in (store.get, store.timeseries, llem.load):
        with pytest.raises(SidecarPathError, match=r"@ \$\.timeseries") as caught:
            read(sampled)
        assert sampled.path in str(caught.value)


def test_only_folders_with_a_result_are_listed(store, kept):
    """No claims, staging, hidden folders, files, nor links to folders."""
    root = store.root
    for name in ("claim", ".hidden", ".llem-tmp-0123", "holds.something"):
        (root / name).mkdir()
    (root / ".llem-tmp" / "0123").mkdir()
    (root / "holds.something" / "notes.txt").write_text("theirs")
    for hidden in (root / ".hidden", root / ".llem-tmp" / "0123", root / ".llem-tmp"):
        (hidden / "result.json").write_bytes(to_json(small_result()))
    (root / "link").symlink_to(kept.key, target_is_directory=True)
    (root / "dangling").symlink_to("nowhere")
    (root / "result.json").write_bytes(to_json(small_result()))
    os.mkfifo(root / "fifo")

    assert list(store) == [kept.key]
    assert len(store) == 1
    for name in (".hidden", ".llem-tmp", "claim", "result.json", "fifo", "dangling"):
        assert name not in store, name
    assert store.verify().checked == 1


def test_what_an_old_writer_left_in_a_folder_is_ignored(store, kept):
    Path(kept).with_name("resultab12.tmp").write_text("{")

    assert list(store) == [kept.key]
    assert store.get(kept) == kept.result
    assert store.verify().faults == ()


def test_a_root_that_does_not_exist_is_empty(store):
    """And looking does not make it."""
    assert list(store) == []
    assert len(store) == 0
    assert "x" not in store
    assert not store.root.exists()
    with pytest.raises(ResultNotFoundError, match="there is no such directory"):
        store.verify()


def test_a_root_that_is_a_file_cannot_be_listed(store):
    store.root.write_text("theirs")

    for look in (list, len, ResultStore.verify):
        with pytest.raises(ResultAccessError, match="cannot be listed") as caught:
            look(store)
        assert str(store.root) in str(caught.value)
    assert "x" not in store


@pytest.mark.parametrize("name", ["with spaces", "quo\"tes'", "ümläut-日本", "per%cent", "-dash"])
def test_a_root_of_any_name_is_read(tmp_path, name):
    store = ResultStore(tmp_path / name)

    kept = store.put(small_result(), timeseries=small_table())

    assert list(store) == [kept.key]
    assert store.get(kept.path) == llem.load(kept) == kept.result
    assert store.timeseries(kept.key) == small_table()


def test_reading_changes_nothing_and_leaves_no_descriptors(store, sampled):
    before = [(p, p.stat().st_mtime_ns, p.stat().st_mode) for p in sorted(store.root.rglob("*"))]
    descriptors = len(os.listdir("/proc/self/fd"))

    for _ in range(3):
        list(store), store.get(sampled), store.timeseries(sampled), store.verify()
        for refused in ("/dev/null", "/dev/null/missing"):
            with pytest.raises((ResultAccessError, ResultNotFoundError)):
                store.get(refused)

    after = [(p, p.stat().st_mtime_ns, p.stat().st_mode) for p in sorted(store.root.rglob("*"))]
    assert after == before
    assert len(os.listdir("/proc/self/fd")) == descriptors
