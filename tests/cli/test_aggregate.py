"""``llem aggregate``: finishing a run whose processes have left what they measured."""

import shutil
import subprocess
from datetime import timedelta

import attrs
import pytest
from spooling import CONDITIONS, RUN, begun, manifest_of, process_of

from llem.store import ResultStore, Spool
from llem.testing import small_result


def apart(index):
    """What process *index* measured, on a device of its own number."""
    devices = tuple(attrs.evolve(d, gpu_index=index) for d in process_of(index).devices)
    return attrs.evolve(process_of(index), devices=devices)


@pytest.fixture
def left(tmp_path):
    """The spool of a run of two processes, of which *indices* have left something."""

    def leave(*indices: int):
        spool = begun(tmp_path / "root", 2)
        for index in indices:
            spool.leave(apart(index), CONDITIONS)
        return spool

    return leave


def test_a_whole_run_is_finished(llem, left, tmp_path) -> None:
    """Its result is kept where the run was to keep it, and its state is gone."""
    spool = left(0, 1)

    done = llem("aggregate", spool.folder)

    assert done.status == 0, done.err
    assert done.err == ""
    (key,) = ResultStore(tmp_path / "root")
    assert f"root/{key}/result.json" in done.out
    assert not (tmp_path / "root" / ".state").exists()


def test_another_root(llem, left, tmp_path) -> None:
    """It is kept there."""
    done = llem("aggregate", left(0, 1).folder, "--root", tmp_path / "other", "--json")

    assert done.status == 0, done.err
    assert done.json["num_processes"] == 2
    assert list(ResultStore(tmp_path / "other")) == [done.json["key"]]


def test_what_is_missing_is_named(llem, left, tmp_path) -> None:
    """Nothing is kept, and nothing goes."""
    spool = left(0)

    refused = llem("aggregate", spool.folder)

    assert refused.status == 1
    assert "rank 1: left nothing" in refused.err
    assert "--allow-incomplete" in refused.err
    assert len(ResultStore(tmp_path / "root")) == 0
    assert spool.is_marked(0)


def test_without_what_is_missing(llem, left, tmp_path) -> None:
    """The result says so, and the state stays, so that the whole run can be kept later."""
    spool = left(0)

    done = llem("aggregate", spool.folder, "--allow-incomplete")

    assert done.status == 0, done.err
    assert "rank 1: left nothing" in done.out
    assert "incomplete_run: " in done.out
    assert f"what there is of the run stays in {spool.folder}" in done.err
    (key,) = ResultStore(tmp_path / "root")
    assert ResultStore(tmp_path / "root").get(key).aggregation.method == "incomplete_aggregation"
    assert spool.is_marked(0)
    again = llem("aggregate", spool.folder, "--allow-incomplete")
    assert again.status == 0
    assert len(ResultStore(tmp_path / "root")) == 1
    spool.leave(apart(1), CONDITIONS)
    whole = llem("aggregate", spool.folder)
    assert whole.status == 0
    assert f"{key} is the same run without some of its processes" in whole.out
    assert len(ResultStore(tmp_path / "root")) == 2


def test_nothing_to_make_do_with(llem, left) -> None:
    """An empty run makes no result."""
    refused = llem("aggregate", left().folder, "--allow-incomplete")

    assert refused.status == 1
    assert "ranks 0-1: left nothing" in refused.err


def test_a_result_that_was_kept_before(llem, left, tmp_path) -> None:
    """Whoever kept it died before the state was removed: it is not kept twice."""
    spool = left(0, 1)
    shutil.copytree(spool.folder, tmp_path / "copy" / spool.folder.name)
    llem("aggregate", spool.folder)
    (key,) = ResultStore(tmp_path / "root")

    again = llem("aggregate", tmp_path / "copy" / spool.folder.name, "--root", tmp_path / "root")

    assert again.status == 0, again.err
    assert list(ResultStore(tmp_path / "root")) == [key]


def test_a_run_of_the_same_experiment_lacks_nothing(llem, left, tmp_path) -> None:
    """Another one, which was whole as well, is none that is to be left out."""
    llem("aggregate", left(0, 1).folder)
    spool = Spool.of(tmp_path / "root", "run-2")
    spool.begin(attrs.evolve(manifest_of(2), run_id="run-2"))
    for index in (0, 1):
        spool.leave(attrs.evolve(apart(index), gpu_name="another"), CONDITIONS)

    done = llem("aggregate", spool.folder)

    assert done.status == 0, done.err
    assert len(ResultStore(tmp_path / "root")) == 2
    assert "leave it out" not in done.out + done.err


@pytest.mark.parametrize("name", ["nothing", "file", "folder"])
def test_what_is_no_state_of_a_run(llem, tmp_path, name) -> None:
    """One line says so."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()

    refused = llem("aggregate", name)

    assert refused.status == 1
    assert name in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize("name", ["root", "root/.state"])
def test_a_folder_of_runs(llem, left, tmp_path, name) -> None:
    """The run is asked for, by name."""
    spool = left(0)

    refused = llem("aggregate", tmp_path / name)

    assert refused.status == 1
    assert f"name one of {spool.folder}" in refused.err
    listed = llem("list", "--root", tmp_path / "root")
    assert "`llem verify` says what ranks left" in listed.err


A, B = "a:/x/.state/run", "b:/y/.state/run"


@pytest.mark.parametrize(
    ("places", "present", "told"),
    [
        ((A, B), 0, f"rank 1: left nothing: copy the files that it left in {B} into this folder"),
        ((A, B), 1, f"rank 0: left nothing: copy the files that it left in {A} into this folder"),
        ((A, A), 0, "rank 1: left nothing: see whether it measures still, why it died"),
        ((A, A), 1, "rank 0: left nothing: see whether it measures still, why it died"),
        ((), 0, "rank 1: left nothing: copy the files that it left on its own machine into this"),
    ],
)
def test_where_a_missing_part_may_lie(llem, tmp_path, places, present, told) -> None:
    """On the machine that it was measured on; nobody is sent to where they are."""
    spool = Spool.of(tmp_path / "root", RUN)
    spool.begin(attrs.evolve(manifest_of(2), places=places))
    spool.leave(process_of(present), CONDITIONS)

    refused = llem("aggregate", spool.folder)

    assert told in refused.err
    assert ("whether it has kept the result" in refused.err) == ((places, present) == ((A, B), 1))


def test_a_state_that_cannot_be_removed(llem, left, tmp_path) -> None:
    """The result is kept elsewhere, and told; that the state stays is a warning."""
    spool = left(0, 1)
    place = str(tmp_path / "root")
    bound = ["mount", "--bind", place, place], ["mount", "-o", "remount,ro,bind", place]
    if any(subprocess.run(how, check=False, capture_output=True).returncode for how in bound):
        pytest.skip("may not mount anything")
    try:
        done = llem("aggregate", spool.folder, "--root", tmp_path / "other")
        again = llem("aggregate", spool.folder, "--root", tmp_path / "other")
    finally:
        subprocess.run(["umount", place], check=True)

    assert done.status == again.status == 0, done.err
    (key,) = ResultStore(tmp_path / "other")
    assert f"{key}/result.json" in done.out
    assert "its result is kept, so take it away" in done.err


def test_a_stranger_that_is_taken_away_later(llem, left, tmp_path) -> None:
    """All of the run was there before, and its result is the same."""
    spool = left(0, 1)
    stray = spool.folder / "process-00007.json"
    stray.write_text("{}")
    assert llem("aggregate", spool.folder).status == 1
    done = llem("aggregate", spool.folder, "--allow-incomplete")
    stray.unlink()

    again = llem("aggregate", spool.folder)

    assert (done.status, again.status) == (0, 0), again.err
    (key,) = ResultStore(tmp_path / "root")
    kept = ResultStore(tmp_path / "root").get(key)
    assert kept.aggregation.method == "late_aggregation"
    assert not spool.folder.exists()


def test_a_run_that_began_in_another_minute(llem, left, tmp_path) -> None:
    """Without its first process; the whole one still says that it replaces that result."""
    spool = left()
    minute = CONDITIONS.start_time.replace(second=0, microsecond=0)
    first = attrs.evolve(CONDITIONS, start_time=minute - timedelta(seconds=1))
    later = attrs.evolve(CONDITIONS, start_time=minute + timedelta(seconds=1))
    spool.leave(apart(1), later)
    llem("aggregate", spool.folder, "--allow-incomplete")
    (incomplete,) = ResultStore(tmp_path / "root")
    spool.leave(apart(0), first)

    whole = llem("aggregate", spool.folder)

    assert len({key[-5:] for key in ResultStore(tmp_path / "root")}) == 2
    assert f"{incomplete} is the same run without some of its processes" in whole.out


def test_a_result_larger_than_readers_take(llem, left, monkeypatch) -> None:
    """It is kept all the same, and how to read it is told."""
    monkeypatch.setattr("llem.cli.kept.MAX_JSON_BYTES", 1000)

    done = llem("aggregate", left(0, 1).folder)

    assert done.status == 0
    assert "use --max-json-mib 1" in done.err


@pytest.mark.parametrize("verb", ["list", "export", "verify", "show"])
def test_the_largest_that_a_verb_reads(llem, tmp_path, verb) -> None:
    """It can be raised, and lowered."""
    large = small_result(measurement_warnings=("x" * 2**20,))
    kept = ResultStore(tmp_path / "root").put(large)
    words = [verb, *([kept.key] if verb == "show" else []), "--root", tmp_path / "root"]

    assert llem(*words).status == 0
    refused = llem(*words, "--max-json-mib", "1")
    assert refused.status == 1
    assert "--max-json-mib" in refused.out + refused.err
    wrong = llem(*words, "--max-json-mib", "0")
    assert wrong.status == 2
    assert "--max-json-mib must be 1 or more" in wrong.err
