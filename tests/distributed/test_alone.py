"""Ranks without a launcher: one process, which needs neither torch nor a network."""

import subprocess
import sys

import pytest

import llem
from llem.domain.config import EnergyConfig
from llem.errors import ConfigError, IncompleteRunError, LlemWarning, StoreWriteError

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


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan"), "5"])
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
