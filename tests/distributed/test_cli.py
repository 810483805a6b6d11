"""``llem run`` in every rank, as a user types it."""

import csv
import json
import subprocess
import sys

import pytest

from llem.store import ResultStore

pytestmark = pytest.mark.torch

QUICK = ["--warmup.enabled=false", "--energy.backend", "none"]


@pytest.fixture
def torchrun(environment, tmp_path):
    """Call ``torchrun -m llem run`` with words, in an empty folder."""
    pytest.importorskip("torch")

    def call(count: int, *words: str) -> "subprocess.CompletedProcess[str]":
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command = [*launcher, "--nproc-per-node", str(count), "-m", "llem", "run", *words]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return call


def test_one_summary_of_one_result(torchrun, tmp_path) -> None:
    """Rank 0 alone prints and keeps."""
    ended = torchrun(2, *QUICK, "--num-prompts=4", "--export-csv", "out.csv")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("model  ") == 1
    assert ended.stderr.count("llem: running prompts") == 1
    (key,) = ResultStore(tmp_path / "results")
    assert f"results/{key}/result.json" in ended.stdout
    (row,) = csv.DictReader((tmp_path / "out.csv").read_text("utf-8").splitlines())
    assert row["num_processes"] == "2"
    assert row["total_tokens"] == str(4 * (64 + 32))


def test_json_of_one_result(torchrun) -> None:
    """It is one document, which a program can read."""
    ended = torchrun(2, *QUICK, "--num-prompts=4", "--json")

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["num_processes"] == 2


def test_the_settings_decide_the_hash_and_not_the_number_of_ranks(torchrun, tmp_path) -> None:
    """The same work has the same hash, however many share it."""
    assert torchrun(1, *QUICK, "--num-prompts=4").returncode == 0
    assert torchrun(2, *QUICK, "--num-prompts=4").returncode == 0

    store = ResultStore(tmp_path / "results")
    one, two = (store.get(key) for key in store)
    assert one.measurement_config_hash == two.measurement_config_hash
    assert one.total_tokens == two.total_tokens


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--precision", "bad"], "--precision"),
        (["--num-prompts=1"], "n is 1, and there are 2 ranks"),
        (["--rank-timeout", "0"], "--rank-timeout must be"),
        (["--root", "/dev/null/x"], "nothing was written"),
    ],
)
def test_what_is_wrong_is_told_once(torchrun, words, told) -> None:
    """Not by each rank."""
    ended = torchrun(2, *QUICK, *words)

    assert ended.returncode != 0
    assert ended.stderr.count(told) == 1, ended.stderr
