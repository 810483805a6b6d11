"""What is done to a store while it dies, what there was before, and what may be found after."""

import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from seam import WatchedOs

import llem.store.staging
from llem.store import ResultStore
from llem.testing import small_result, small_table

NAME = "gpt2_pytorch_2026-03-13T14-21"
DAMAGED, NEXT = f"{NAME}_1", f"{NAME}_2"
DEAD = "dead"
SAMPLES = "samples.parquet"


def put(store, number):
    """Keep result *number*, with samples."""
    return store.put(small_result(total_tokens=number), timeseries=small_table())


def files_under(root):
    """The content of every file under *root*, by its path there; the names of empty folders."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
        if path.is_file() or not any(path.iterdir())
    }


def prepare(root):
    """Two results of one name."""
    for number in range(2):
        put(ResultStore(root), number)


def damage(root):
    """The second result is torn, a writer died over its files, and another over its claim."""
    prepare(root)
    os.truncate(root / DAMAGED / "result.json", 100)
    left = root / ".llem-tmp" / f"{llem.store.staging.boot_id()}_{DEAD}"
    shutil.copytree(root / NAME, left)
    (root / NEXT).mkdir()


def is_whole(store, key, number):
    """Whether result *number* is read under *key* as it was put."""
    expected = small_result(total_tokens=number, timeseries="timeseries.parquet")
    return store.get(key) == expected and store.timeseries(key) == small_table()


class Put:
    """A third result is put."""

    @staticmethod
    def prepare(root):
        prepare(root)

    @staticmethod
    def act(root):
        put(ResultStore(root), 2)

    @staticmethod
    def check(root, *, is_done):
        store = ResultStore(root)
        keys = [*store]
        assert keys in ([NAME, DAMAGED], [NAME, DAMAGED, NEXT])
        assert all(is_whole(store, key, number) for number, key in enumerate(keys))
        assert len(keys) == 3 or not is_done


class PutFile(Put):
    """A third result is put, whose samples are in a file."""

    @staticmethod
    def prepare(root):
        prepare(root)
        pq.write_table(small_table(), root.parent / SAMPLES)

    @staticmethod
    def act(root):
        samples = Path(root).parent / SAMPLES
        ResultStore(root).put(small_result(total_tokens=2), timeseries=samples)


class FirstPut:
    """A result is put where there is not even a root."""

    @staticmethod
    def prepare(root):
        pass

    @staticmethod
    def act(root):
        put(ResultStore(root), 0)

    @staticmethod
    def check(root, *, is_done):
        store = ResultStore(root)
        keys = [*store]
        assert keys in ([], [NAME])
        assert all(is_whole(store, key, number) for number, key in enumerate(keys))
        assert keys or not is_done


class Removal:
    """The second of two results is removed."""

    @staticmethod
    def prepare(root):
        prepare(root)

    @staticmethod
    def act(root):
        ResultStore(root).remove(DAMAGED)

    @staticmethod
    def check(root, *, is_done):
        store = ResultStore(root)
        keys = [*store]
        assert keys in ([NAME, DAMAGED], [NAME])
        assert all(is_whole(store, key, number) for number, key in enumerate(keys))
        assert len(keys) == 1 or not is_done


class Repairing:
    """What is torn is moved aside, and so is what the dead left."""

    @staticmethod
    def prepare(root):
        damage(root)

    @staticmethod
    def act(root):
        ResultStore(root).repair()

    @staticmethod
    def check(root, *, is_done):
        store = ResultStore(root)
        assert [*store] in ([NAME, DAMAGED], [NAME])
        assert is_whole(store, NAME, 0)
        torn, dead = root / DAMAGED, root / ".llem-tmp" / f"{llem.store.staging.boot_id()}_{DEAD}"
        for folder in (torn, dead):
            places = [folder, *(root / ".llem-aside").glob(f"{folder.name}.*")]
            (found,) = [place for place in places if (place / "result.json").exists()]
            assert sorted(os.listdir(found)) == ["result.json", "timeseries.parquet"]
            assert ((found / "result.json").stat().st_size == 100) == (folder == torn)
        assert not is_done or store.verify().faults == ()


SCENES = {scene.__name__: scene for scene in (Put, PutFile, FirstPut, Removal, Repairing)}


def check_after(scene, root, *, is_done):
    """
    Assert that *root* is in an allowed state, and that the store works on.

    All that was whole is so still, and what was changed is in the old state or the new, by the
    rules of *scene*. Faults are but leftovers, the next put works, and a repair loses no content.
    """
    scene.check(root, is_done=is_done)
    store = ResultStore(root)
    if root.exists():
        allowed = {"claim", "staging"} | ({"malformed"} if scene is Repairing else set())
        assert {fault.kind for fault in store.verify().faults} <= allowed
    with pytest.MonkeyPatch.context() as patch:
        # No power is cut from here on; syncing takes most of the time.
        WatchedOs(left_out=lambda name, _: name == "fsync").install(patch)
        kept = put(store, 3)
        assert is_whole(store, kept.key, 3)
        before = files_under(root)
        patch.setattr(llem.store.staging, "UNLOCKED_S", 0.0)
        repaired = store.repair()
    assert repaired.left == ()
    assert store.verify().faults == ()
    assert is_whole(store, kept.key, 3)
    contents = [content for content in files_under(root).values() if content is not None]
    assert sorted(contents) == sorted(c for c in before.values() if c is not None)
    staging = root / ".llem-tmp"
    assert not staging.exists() or list(staging.iterdir()) == []
