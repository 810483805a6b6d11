"""Whoever is killed, wherever: what was kept is whole, what was begun is there whole or not."""

import shutil

import pytest
from killing import Dying
from scenes import DEAD, NAME, SCENES, check_after, is_whole, put

import llem
from llem.store import ResultStore
from llem.store.staging import boot_id

CALLS_OF_A_PUT = 18


@pytest.fixture
def dying_in(tmp_path):
    started = []

    def start(scene, kind="WatchedOs"):
        started.append(Dying(scene, kind, tmp_path))
        return started[-1]

    yield start
    for one in started:
        one.process.stdin.close()
        one.process.stdout.close()
        one.process.wait()


@pytest.mark.parametrize("scene", SCENES)
def test_whoever_is_killed_leaves_the_old_state_or_the_new(dying_in, scene):
    """Before and after every call of a put, a removal and a repair."""
    one, ends = dying_in(scene), []

    for root, end in one.each_call("SIGKILL"):
        check_after(one.scene, root, is_done=end == "done")
        ends.append(end)

    assert ends.count("done") == 2
    assert ends.count("killed") == len(ends) - 2
    assert len(ends) > 2 * 9


@pytest.mark.parametrize("scene", SCENES)
def test_without_the_rename_as_a_whole_a_kill_is_seen(dying_in, scene):
    """The same check, where files are moved one by one."""
    one = dying_in(scene, "FileByFileOs")

    assert any(end == "killed" and is_seen(one, root) for root, end in one.each_call("SIGKILL"))


def is_seen(one, root):
    try:
        check_after(one.scene, root, is_done=False)
    except (AssertionError, llem.LlemWarning):
        return True
    return False


@pytest.mark.parametrize("scene", ["Put", "Removal"])
def test_the_living_are_told_from_the_dead(dying_in, scene):
    """Whoever is stopped at any call lives: what the dead left is found, and nothing else is."""
    one = dying_in(scene)
    dead, claim = one.template / ".llem-tmp" / f"{boot_id()}_{DEAD}", one.template / f"{NAME}_9"
    shutil.copytree(one.template / NAME, dead)
    claim.mkdir()
    expected = [("claim", claim.name), ("staging", dead.name)]

    for root, end in one.each_call("SIGSTOP"):
        store = ResultStore(root)
        assert [(fault.kind, fault.key) for fault in store.verify().faults] == expected
        repaired = store.repair()
        assert [(moved.kind, moved.key) for moved in repaired.moved] == expected
        assert end == "done" or one.order() == "done"
        check_after(one.scene, root, is_done=True)


def test_the_next_put_of_the_living_works_beside_the_dead(dying_in):
    """A writer dies over each call in turn, in one root: what was told to be kept is all there."""
    one = dying_in("Put")
    root = one.fresh_root()
    for at in range(CALLS_OF_A_PUT):
        assert one.order(root=str(root), at=at, after=True, signal="SIGKILL") == "killed"
        put(ResultStore(root), 3)

    store = ResultStore(root)
    assert {fault.kind for fault in store.verify().faults} == {"claim", "staging"}
    assert sum(is_whole(store, key, 3) for key in store) == CALLS_OF_A_PUT
    assert store.repair().left == ()
