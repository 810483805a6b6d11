"""Removing takes a result away as a whole, durably, and touches nothing else."""

import errno
import os
from pathlib import Path

import pytest
from scenes import DAMAGED, NAME, Removal, check_after, files_under, prepare
from seam import WatchedOs, failing

from llem.errors import (
    CommitUnknownError,
    InvalidNameError,
    ResultNotFoundError,
    StoreWriteError,
)
from llem.store import ResultStore
from llem.testing import small_result, small_table

FAULTS = [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EMFILE, errno.EINTR]

CALLS = ["mkdir", "open", "rename", "open", "fsync", "close", "unlink", "unlink", "rmdir", "close"]
GONE = CALLS.index("rename")


@pytest.fixture
def root(tmp_path):
    """Two results; the second is removed."""
    prepare(tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def remove(root, monkeypatch):
    """Removes a result; a fault ends with the call."""

    def call(at=None, do=None):
        watched = WatchedOs(at, do).install(monkeypatch)
        try:
            ResultStore(root).remove(DAMAGED)
        finally:
            monkeypatch.undo()
        return [name for name, _ in watched.calls]

    return call


def open_descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_a_removed_result_is_gone(root, remove):
    """The root is synced before a file of it is deleted, and nothing is left of it."""
    assert remove() == CALLS

    store = ResultStore(root)
    assert list(store) == [NAME]
    assert DAMAGED not in store
    with pytest.raises(ResultNotFoundError):
        store.get(DAMAGED)
    assert sorted(os.listdir(root)) == [".llem-tmp", NAME]
    assert os.listdir(root / ".llem-tmp") == []
    assert store.verify().faults == ()


@pytest.mark.parametrize(
    "form", [str, Path, lambda path: path.parent, lambda path: path.parent.name]
)
def test_every_form_of_a_key_names_what_is_removed(root, form):
    ResultStore(root).remove(form(root / DAMAGED / "result.json"))

    assert list(ResultStore(root)) == [NAME]


def test_what_put_returned_names_what_is_removed(root):
    store = ResultStore(root)

    store.remove(store.put(small_result()))

    assert list(store) == [NAME, DAMAGED]


def test_what_is_not_in_the_store_is_not_removed(root, tmp_path):
    """Nor is what lies elsewhere, or in the folders of the store itself."""
    theirs = ResultStore(tmp_path / "elsewhere").put(small_result())
    hidden = root / ".llem-aside"
    hidden.mkdir()
    (hidden / "result.json").write_text("{}")
    before = files_under(tmp_path)

    for key in ("nothing", "", ".", "..", ".llem-tmp", theirs, theirs.path, hidden, root):
        with pytest.raises(ResultNotFoundError):
            ResultStore(root).remove(key)
    with pytest.raises(InvalidNameError):
        ResultStore(root).remove(5)

    assert files_under(tmp_path) == before


def test_a_result_is_removed_once(root, remove):
    """Another removes it first: it is not found."""

    def first(real, *args):
        ResultStore(root).remove(DAMAGED)
        return real(*args)

    with pytest.raises(ResultNotFoundError, match=DAMAGED):
        remove(GONE, first)

    assert list(ResultStore(root)) == [NAME]


def test_files_of_others_are_kept(root):
    """They are not deleted with the result: `verify` names them, and `repair` moves them."""
    (root / DAMAGED / "notes.txt").write_text("mine")
    store = ResultStore(root)

    store.remove(DAMAGED)

    assert list(store) == [NAME]
    assert [fault.kind for fault in store.verify().faults] == ["staging"]
    (moved,) = store.repair().moved
    assert os.listdir(moved.to) == ["notes.txt"]


def test_a_reader_that_meets_a_removal_finds_nothing(root, monkeypatch):
    """Not a result whose samples went between its record and them."""
    store = ResultStore(root)
    real = os.path.lexists

    def lexists(path):
        monkeypatch.undo()
        store.remove(DAMAGED)
        return real(path)

    monkeypatch.setattr("llem.store.files.os.path.lexists", lexists)

    with pytest.raises(ResultNotFoundError, match="removed while it was read"):
        store.get(DAMAGED)


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("index", range(GONE + 1), ids=lambda i: f"{i}-{CALLS[i]}")
def test_a_fault_before_it_is_gone_changes_nothing(root, remove, index, number):
    before, descriptors = files_under(root), open_descriptors()

    with pytest.raises(StoreWriteError, match=DAMAGED) as caught:
        remove(index, failing(number))

    assert os.strerror(number) in str(caught.value)
    assert files_under(root) == before
    assert open_descriptors() == descriptors
    check_after(Removal, root, is_done=False)


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("index", range(GONE + 1, GONE + 4), ids=lambda i: f"{i}-{CALLS[i]}")
def test_a_root_that_cannot_be_synced_is_told(root, remove, index, number):
    """Its files stay: it may be back after a power cut, and is whole then."""
    descriptors = open_descriptors()

    with pytest.raises(CommitUnknownError, match=DAMAGED) as caught:
        remove(index, failing(number))

    (left,) = (root / ".llem-tmp").iterdir()
    assert str(left) in str(caught.value)
    assert sorted(os.listdir(left)) == ["result.json", "timeseries.parquet"]
    assert open_descriptors() == descriptors
    check_after(Removal, root, is_done=True)


@pytest.mark.parametrize("number", FAULTS, ids=errno.errorcode.get)
@pytest.mark.parametrize("index", range(GONE + 4, len(CALLS)), ids=lambda i: f"{i}-{CALLS[i]}")
def test_a_file_that_cannot_be_deleted_is_left_to_repair(root, remove, index, number):
    """The result is gone all the same."""
    descriptors = open_descriptors()

    remove(index, failing(number))

    assert list(ResultStore(root)) == [NAME]
    assert open_descriptors() == descriptors
    check_after(Removal, root, is_done=True)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.ESTALE], ids=errno.errorcode.get)
def test_a_rename_that_took_place_after_all_counts(root, remove, number):
    """The reply of a file server was lost."""
    assert remove(GONE, failing(number, after=True)) == CALLS

    check_after(Removal, root, is_done=True)


def test_a_removal_as_another_puts_the_same_name(root):
    """The name is free at once, and the next put of it takes it."""
    store = ResultStore(root)
    store.remove(NAME)

    assert store.put(small_result(), timeseries=small_table()).key == NAME


@pytest.mark.parametrize("linked", ["folder", "record"])
def test_a_link_to_a_result_removes_nothing(root, linked):
    """It is no result of its own, and what it points to was not named."""
    store = ResultStore(root)
    alias = root / "alias_x_2020-01-01T00-00"
    if linked == "folder":
        alias.symlink_to(DAMAGED, target_is_directory=True)
    else:
        alias.mkdir()
        (alias / "result.json").symlink_to(root / DAMAGED / "result.json")

    for key in (alias.name, alias, alias / "result.json"):
        assert key not in store
        with pytest.raises(ResultNotFoundError):
            store.remove(key)

    assert DAMAGED in store
    assert alias.is_symlink() or alias.is_dir()


def test_a_root_behind_a_link_is_the_same_root(root, tmp_path):
    """Results are named through it as well."""
    (tmp_path / "link").symlink_to(root, target_is_directory=True)

    ResultStore(root).remove(tmp_path / "link" / DAMAGED)

    assert DAMAGED not in ResultStore(root)
