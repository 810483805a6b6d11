"""`verify` reads everything, names all that is wrong, and changes nothing."""

import contextlib
import os
from pathlib import Path

import pytest
from ruins import KINDS

from llem.codec import to_json
from llem.errors import ResultAccessError
from llem.store import ResultStore, StoreFault
from llem.testing import small_result, small_table


@pytest.fixture
def store(tmp_path):
    return ResultStore(tmp_path / "root")


@pytest.fixture
def ruined(store):
    """A good result, one of each fault, an unverified one, and another good one; keys by kind."""

    def put():
        return store.put(small_result(), timeseries=small_table())

    kept = {"good": put()}
    for kind, (ruin, _) in KINDS.items():
        kept[kind] = put()
        ruin(Path(kept[kind]))
    kept["unverified"] = store.put(small_result())
    Path(kept["unverified"]).write_bytes(to_json(small_result()))
    kept["trusted"] = put()
    Path(kept["trusted"]).write_bytes(to_json(kept["trusted"].result))
    kept["last"] = put()
    (store.root / "notes").mkdir()
    return {kind: result.key for kind, result in kept.items()}


def test_every_fault_is_named_with_its_place(store, ruined):
    """In the order of keys; the good ones are not named, nor is an empty folder of another's."""
    found = store.verify()

    assert found.checked == len(ruined) == len(KINDS) + 4
    assert [(f.key, f.kind) for f in found.faults] == [(ruined[kind], kind) for kind in KINDS]
    for fault, (_, word) in zip(found.faults, KINDS.values(), strict=True):
        assert fault.path == str(store.root / fault.key / "result.json")
        assert os.path.dirname(fault.path) in fault.message
        assert word in fault.message
    assert found.unverified == (ruined["unverified"], ruined["trusted"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_alone(store, kind):
    kept = store.put(small_result(), timeseries=small_table())
    KINDS[kind][0](Path(kept))

    found = store.verify()

    assert found.checked == 1
    assert [(f.key, f.path, f.kind) for f in found.faults] == [(kept.key, kept.path, kind)]
    assert found.unverified == ()


def test_good_results_have_no_faults(store):
    for table in (None, small_table()):
        store.put(small_result(), timeseries=table)

    found = store.verify()

    assert (found.checked, found.faults, found.unverified) == (2, (), ())


def test_the_limits_of_the_store_count(store):
    """A result over a limit is named, and the message says which."""
    kept = store.put(small_result(), timeseries=small_table())

    small = ResultStore(store.root, max_json_bytes=10).verify().faults
    short = ResultStore(store.root, max_rows=3).verify().faults

    assert [(f.key, f.kind) for f in small] == [(kept.key, "too_large")]
    assert [(f.key, f.kind) for f in short] == [(kept.key, "too_large")]
    assert all("max_rows" in fault.advice for fault in (*small, *short))
    assert "limit of 10" in small[0].message
    assert "limit of 3" in short[0].message


def tree(root):
    """All there is under *root*, with times, modes, sizes, and contents."""
    return [
        (
            str(path),
            path.lstat()[:7],
            path.lstat().st_mtime_ns,
            path.lstat().st_ctime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in [root, *sorted(root.rglob("*"))]
    ]


def test_nothing_is_changed(store, ruined):
    before = tree(store.root)

    first, second = store.verify(), store.verify()

    assert tree(store.root) == before
    assert first == second


def test_warnings_are_told_as_faults_only(store, ruined, recwarn):
    """Nothing is warned of, whatever is met."""
    store.verify()

    assert not recwarn.list


def test_a_record_that_goes_meanwhile_is_named_as_missing(store, monkeypatch):
    """Another process took the file away between listing and reading."""
    gone, kept = store.put(small_result()), store.put(small_result())
    monkeypatch.setattr(ResultStore, "_names", lambda *_: [gone.key, kept.key])
    Path(gone).rename(Path(gone).with_name("elsewhere"))

    found = store.verify()

    (fault,) = found.faults
    assert isinstance(fault, StoreFault)
    assert (fault.key, fault.kind) == (gone.key, "missing")
    assert found.checked == 2


def test_a_result_that_is_removed_meanwhile_is_no_fault(store, monkeypatch):
    gone, kept = store.put(small_result()), store.put(small_result())
    monkeypatch.setattr(ResultStore, "_names", lambda *_: [gone.key, kept.key])
    store.remove(gone)

    found = store.verify()

    assert (found.checked, found.faults) == (1, ())


def test_samples_without_a_record_are_named(store):
    """Somebody took the record away and left its sidecar."""
    kept = store.put(small_result(), timeseries=small_table())
    Path(kept).unlink()

    (fault,) = store.verify().faults

    assert (fault.key, fault.kind) == (kept.key, "missing")


def test_a_root_that_cannot_be_listed_is_told(store):
    store.root.write_text("theirs")

    with pytest.raises(ResultAccessError, match="cannot be listed"):
        store.verify()


@pytest.fixture
def as_somebody(tmp_path, monkeypatch):
    """Whoever may do least, in the folder of the test: to root nothing is forbidden."""
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)

    @contextlib.contextmanager
    def as_somebody():
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            yield ResultStore("root")
        finally:
            if is_root:
                os.seteuid(0)

    return as_somebody


@pytest.mark.parametrize("mode", [0o000, 0o444])
def test_a_result_that_may_not_be_looked_at_is_named(store, as_somebody, mode):
    """It is of another user; nothing is known of it, and it stays."""
    closed, kept = store.put(small_result()), store.put(small_result())
    folder = Path(closed).parent
    folder.chmod(mode)

    with as_somebody() as theirs:
        found, keys = theirs.verify(), [*theirs]
    folder.chmod(0o755)

    assert [(f.key, f.kind) for f in found.faults] == [(closed.key, "access")]
    assert "Permission denied" in found.faults[0].message
    assert keys == [closed.key, kept.key]
    assert found.checked == 2


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_a_root_that_may_not_be_looked_at_is_told(store, as_somebody, mode):
    """Whether it cannot be listed, or nothing that it lists can be opened."""
    store.put(small_result())
    store.root.chmod(mode)

    try:
        with as_somebody() as theirs:
            for look in (theirs.verify, theirs.repair, lambda: [*theirs]):
                with pytest.raises(ResultAccessError, match="root: cannot be listed: Permission"):
                    look()
    finally:
        store.root.chmod(0o755)


def test_a_root_in_a_folder_that_may_not_be_looked_at_is_told(store, as_somebody):
    store.put(small_result())
    (store.root / "inner").mkdir()
    store.root.chmod(0)

    try:
        with as_somebody(), pytest.raises(ResultAccessError, match="Permission denied"):
            ResultStore("root/inner").verify()
    finally:
        store.root.chmod(0o755)


@pytest.mark.parametrize("area", [".llem-tmp", ".llem-aside"])
def test_an_area_that_may_not_be_listed_is_named(store, as_somebody, area):
    store.put(small_result())
    (store.root / area).mkdir(exist_ok=True)
    (store.root / area).chmod(0)
    (store.root / "result.json").mkdir()

    with as_somebody() as theirs:
        faults = theirs.verify().faults
        left = theirs.repair().left
    (store.root / area).chmod(0o755)

    assert [(fault.key, fault.kind) for fault in faults] == [(area, "access")]
    assert left == faults


def test_what_every_disk_has_is_no_result(store, as_somebody):
    store.put(small_result())
    (store.root / "lost+found").mkdir()
    (store.root / "lost+found").chmod(0)

    with as_somebody() as theirs:
        assert theirs.verify().faults == ()
    (store.root / "lost+found").chmod(0o755)
