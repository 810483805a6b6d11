"""Ranks without a launcher: one process, which needs neither torch nor a network."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack

import attrs
import pytest
from spooling import CONDITIONS, PROCESS, RUN, manifest_of

import llem
from llem.distributed.shelter import leave
from llem.domain.config import EnergyConfig
from llem.errors import ConfigError, IncompleteRunError, LlemWarning, StoreWriteError
from llem.store import Spool
from llem.testing import small_table

CONFIG = llem.ExperimentConfig(model="m", backend="mine", energy=EnergyConfig(backend=None))


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def measure(ranks: llem.Ranks) -> None:
    with llem.Experiment(CONFIG, peers=ranks) as run:
        run.record(input_tokens=3, output_tokens=4, latency_s=0.0)


def test_one_result_is_kept(tmp_path) -> None:
    """As of any run, and keeping it again gives the same."""
    with llem.Ranks(tmp_path) as ranks:
        measure(ranks)
        kept = ranks.keep()
        again = ranks.keep()

    assert kept is again
    assert [*llem.ResultStore(tmp_path)] == [kept.key]
    assert kept.result.aggregation.method == "single_process"
    assert kept.result.total_tokens == 7


def test_torch_is_not_needed(tmp_path) -> None:
    """Nor loaded."""
    code = (
        "import sys, llem, importlib.abc\n"
        "sys.modules['torch'] = None\n"
        "with llem.Ranks(sys.argv[1]) as ranks:\n"
        "    config = llem.ExperimentConfig(model='m', energy=llem.EnergyConfig(backend=None))\n"
        "    with llem.Experiment(config, peers=ranks, synchronize=lambda: None) as run: pass\n"
        "    print(ranks.keep().key)\n"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 0, ended.stderr


def test_several_experiments(tmp_path) -> None:
    """Each is kept before the next."""
    with llem.Ranks(tmp_path) as ranks:
        measure(ranks)
        first = ranks.keep()
        measure(ranks)
        second = ranks.keep()

    assert [*llem.ResultStore(tmp_path)] == [first.key, second.key]


def test_an_experiment_before_the_last_is_kept(tmp_path) -> None:
    """Its samples would be mixed with the next one's."""
    with pytest.raises(IncompleteRunError, match="call keep") as raised, llem.Ranks(tmp_path) as r:
        measure(r)
        measure(r)

    assert "llem aggregate" in raised.value.__notes__[0]


def test_what_is_not_kept_is_told(tmp_path) -> None:
    """A run that ends without keep has no result."""
    with pytest.warns(LlemWarning, match="was not kept: call keep"), llem.Ranks(tmp_path) as ranks:
        measure(ranks)

    assert len(llem.ResultStore(tmp_path)) == 0


def test_what_is_not_kept_is_told_on_the_way_out_of_python(tmp_path) -> None:
    """A program that ends by `sys.exit`, as though all was well, has forgotten it too."""

    def leave_early() -> None:
        with llem.Ranks(tmp_path) as ranks:
            measure(ranks)
            sys.exit(0)

    with ExitStack() as stack:
        stack.enter_context(pytest.raises(SystemExit))
        stack.enter_context(pytest.warns(LlemWarning, match="was not kept: call keep"))
        leave_early()


def test_nothing_to_keep(tmp_path) -> None:
    """No network is blamed for it."""
    with pytest.raises(IncompleteRunError, match="then call keep"), llem.Ranks(tmp_path) as ranks:
        ranks.keep()


def test_before_and_after(tmp_path) -> None:
    """Ranks are met inside the block."""
    ranks = llem.Ranks(tmp_path)
    with pytest.raises(IncompleteRunError, match="use `with Ranks"):
        ranks.keep()
    with ranks:
        pass
    with pytest.raises(IncompleteRunError, match="have parted: measure, and call keep"):
        ranks.exchange("x", None)


def test_a_root_that_cannot_be_written(tmp_path) -> None:
    """It is refused before anything is measured."""
    (tmp_path / "file").write_text("x")

    with pytest.raises(StoreWriteError), llem.Ranks(tmp_path / "file"):
        pytest.fail("was entered")


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan"), "5", True, None, 1e7])
def test_a_timeout_that_is_none(tmp_path, timeout_s) -> None:
    with pytest.raises(ConfigError, match="timeout_s must be"):
        llem.Ranks(tmp_path, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"RANK": "0"}, "RANK is set"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK must be a number"),
        ({"RANK": "9" * 5000, "WORLD_SIZE": "2"}, "RANK must be a number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "must be less than WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR is not"),
    ],
)
def test_variables_that_contradict(tmp_path, monkeypatch, variables, told) -> None:
    """A launcher would not set them so."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigError, match=told):
        llem.Ranks(tmp_path)


def test_a_relative_root_stays_where_it_was(tmp_path, monkeypatch) -> None:
    """Wherever the program goes meanwhile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with llem.Ranks("results") as ranks:
        monkeypatch.chdir(tmp_path / "elsewhere")
        measure(ranks)
        kept = ranks.keep()

    assert [*llem.ResultStore(tmp_path / "results")] == [kept.key]


def test_a_second_experiment_that_fails_has_no_result(tmp_path) -> None:
    """That of the first one is not taken for it."""
    with pytest.raises(IncompleteRunError, match="nothing was left"), llem.Ranks(tmp_path) as ranks:
        measure(ranks)
        assert ranks.keep() is not None
        with pytest.raises(ZeroDivisionError), llem.Experiment(CONFIG, peers=ranks):
            raise ZeroDivisionError
        ranks.keep()

    assert len(llem.ResultStore(tmp_path)) == 1


def test_ranks_that_are_entered_again_have_kept_nothing_yet(tmp_path) -> None:
    ranks = llem.Ranks(tmp_path)
    with ranks:
        measure(ranks)
        first = ranks.keep()
    with pytest.raises(IncompleteRunError, match="nothing was left"), ranks:
        ranks.keep()
    with ranks:
        measure(ranks)
        assert ranks.keep().key != first.key


def test_an_experiment_inside_of_another(tmp_path) -> None:
    """They would measure one window."""
    with (
        pytest.raises(IncompleteRunError, match="is not over"),
        llem.Ranks(tmp_path) as ranks,
        llem.Experiment(CONFIG, peers=ranks),
    ):
        measure(ranks)


def test_a_child_that_was_forked_leaves_nothing(tmp_path) -> None:
    """It may run to the end of the block, and is none of the ranks."""
    with llem.Ranks(tmp_path) as ranks:
        measure(ranks)
        child = os.fork()
        if not child:
            ranks.__exit__(None, None, None)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        kept = ranks.keep()

    assert [*llem.ResultStore(tmp_path)] == [kept.key]


def test_a_state_that_cannot_be_written_is_found_before_the_run(tmp_path) -> None:
    """And not after it, where what was measured would have to go elsewhere."""
    (tmp_path / ".state").write_text("x")

    with pytest.raises(StoreWriteError, match="can be written there"), llem.Ranks(tmp_path):
        pytest.fail("was entered")


@pytest.fixture
def small(tmp_path):
    """A folder on a disk of its own, which has room for nothing."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(place)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a disk of its own")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_where_there_is_no_room_at_all(small, monkeypatch) -> None:
    """What could not be put anywhere is said to be lost, and why."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(small))
    monkeypatch.setenv("HOME", str(small))

    with (
        pytest.raises(StoreWriteError, match="what rank 0 measured is lost") as raised,
        llem.Ranks(small / "root") as ranks,
    ):
        measure(ranks)

    assert "No space left on device" in str(raised.value)


def test_where_the_temporary_folder_has_no_room(small, tmp_path, monkeypatch) -> None:
    """It is put into that of the user."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(small / "nowhere"))
    monkeypatch.setenv("HOME", str(tmp_path))

    with (
        pytest.raises(StoreWriteError, match="was put into") as raised,
        llem.Ranks(small / "root") as ranks,
    ):
        measure(ranks)

    (shelter,) = tmp_path.glob("llem-*/.state/*")
    assert str(shelter) in str(raised.value)
    done = subprocess.run(
        [sys.executable, "-m", "llem", "aggregate", str(shelter), "--root", str(tmp_path / "r")],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(llem.ResultStore(tmp_path / "r")) == 1


def test_samples_that_cannot_be_kept_do_not_take_the_record_along(tmp_path, monkeypatch) -> None:
    """A meter of one's own may give more than a time series may have, or anything else."""
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    manifest = attrs.evolve(manifest_of(1), places=("here:/there",))
    odd = small_table().drop_columns(["gpu_index"])

    spool = Spool.of(tmp_path, RUN)

    with (
        pytest.raises(StoreWriteError, match="without its samples, was put into") as raised,
        ExitStack() as at_work,
    ):
        leave(spool, manifest, PROCESS, CONDITIONS, odd, at_work=at_work)

    assert "copy its files into here:/there" in str(raised.value)
    (folder,) = (tmp_path / "elsewhere").glob("llem-*/.state/*")
    part = Spool(folder).read(0)
    assert (part.process, part.timeseries) == (PROCESS, None)
