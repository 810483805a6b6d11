"""A power cut after any call, whatever of it had reached the disk: each state is an allowed one."""

import shutil

import pytest
from powercut import Disk, build
from scenes import SCENES, check_after
from seam import OneCall, WatchedOs

import llem

MOST = 500
"""Most outcomes that are looked at after one call."""

NOTHING = OneCall("nothing")


def states(scene, folder, left_out):
    """The trees that a power cut may leave of *scene*, and whether it had ended."""
    scene.prepare(folder / "root")
    disk, recorder = Disk(folder), WatchedOs(left_out=left_out)
    with pytest.MonkeyPatch.context() as patch:
        scene.act(recorder.install(patch) and folder / "root")
    disk.follow(recorder.log)
    return disk.states(MOST)


@pytest.fixture
def built(tmp_path):
    """Each state of a scene, built as a root; says whether the scene had ended."""

    def each(scene, left_out=NOTHING):
        (tmp_path / "scene").mkdir()
        for tree, is_done in states(scene, tmp_path / "scene", left_out):
            now = tmp_path / "now"
            now.mkdir()
            build(tree, now)
            yield now / "root", is_done
            shutil.rmtree(now)

    return each


@pytest.mark.parametrize("name", SCENES)
def test_a_power_cut_leaves_the_old_state_or_the_new(built, name):
    """After any call of a put, a removal and a repair; the new one once the call has returned."""
    ends = []

    for root, is_done in built(SCENES[name]):
        check_after(SCENES[name], root, is_done=is_done)
        ends.append(is_done)

    assert True in ends
    assert False in ends


STEPS = {
    "the bytes of the sidecar": ("Put", OneCall("fsync", r"/timeseries\.parquet$")),
    "the bytes of a sidecar from a file": (
        "PutFile",
        OneCall("fsync", r"/timeseries\.parquet$"),
    ),
    "the bytes of the record": ("Put", OneCall("fsync", r"/result\.json$")),
    "the names in the staging folder": ("Put", OneCall("fsync", r"\.llem-tmp/[^/]+$")),
    "the root after a put": ("Put", OneCall("fsync", "/root$")),
    "the parent of a new root": ("FirstPut", OneCall("fsync", "/scene$")),
    "the root before the files of a removal go": ("Removal", OneCall("fsync", "/root$")),
    "the root before a repair moves": ("Repairing", OneCall("fsync", "/root$", 0)),
    "what a repair moved into": ("Repairing", OneCall("fsync", r"/\.llem-aside$")),
    "the root after a repair": ("Repairing", OneCall("fsync", "/root$", 1)),
}


@pytest.mark.parametrize("step", STEPS)
def test_without_one_sync_a_power_cut_is_seen(built, step):
    """The same check, with one step left out."""
    name, left_out = STEPS[step]

    assert any(is_seen(SCENES[name], *state) for state in built(SCENES[name], left_out))
    assert left_out.met


def is_seen(scene, root, is_done):
    try:
        check_after(scene, root, is_done=is_done)
    except (AssertionError, ValueError, llem.LlemError, llem.LlemWarning):
        return True
    return False
