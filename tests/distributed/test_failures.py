"""A rank that fails, however and wherever: an error names it, and nothing is lost or half kept."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llem.store import ResultStore

pytestmark = pytest.mark.torch

BEFORE = ["join", "agree", "introduce", "idle", "begin", "end"]
"""Where nothing is left yet of the rank that dies there."""

AFTER = ["left", "bring", "brought", "over"]
"""Where it has left what it measured."""


def states(root: Path) -> list[Path]:
    """The folders of runs that were not finished."""
    return sorted((root / ".state").glob("*")) if (root / ".state").exists() else []


def aggregate(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """``llem aggregate``, as a user calls it."""
    return subprocess.run(
        [sys.executable, "-m", "llem", "aggregate", str(folder), *words],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("stage", [*BEFORE, "warmup", "run", *AFTER])
@pytest.mark.parametrize("victim", [1, 0])
def test_a_rank_that_is_killed(launcher, root, stage, victim) -> None:
    """The others name it, no result is kept, and what was left stays until it is aggregated."""
    where = stage if stage in ("warmup", "run") else f"before {stage}"

    ended = launcher.run(3, faults=[[victim, where, "kill"]], timeout_s=20)

    assert ended.status != 0
    assert len(ResultStore(root)) == 0
    told = ended.said[0 if victim else 1]
    # Another rank that had only begun to start may be named too.
    assert re.search(rf"ranks?[ \d,-]* ?{victim}\b.*(no sign of life|did not come)", told)
    if stage in AFTER:
        (folder,) = states(root)
        assert str(folder) in told
        done = aggregate(folder)
        assert done.returncode == 0, done.stderr
        assert ResultStore(root).get(next(iter(ResultStore(root)))).total_tokens == 16 * 7
        assert states(root) == []


QUICK = ["--warmup.enabled=false", "--energy.backend", "none", "--num-prompts", "4"]


@pytest.mark.parametrize("place", ["before kept", "before part"])
@pytest.mark.parametrize("how", ["kill", "terminate"])
@pytest.mark.parametrize("victim", [1, 0])
def test_a_rank_that_ends_once_the_result_is_kept(launcher, root, place, how, victim) -> None:
    """It is kept once, and told, with no word of what is none of a person's business."""
    ended = launcher.run(3, faults=[[victim, place, how]], words=QUICK)

    (key,) = ResultStore(root)
    # The launcher has a traceback of its own.
    assert "/llem/" not in "".join(line for line in ended.out.splitlines() if "File " in line)
    assert f"{key}/result.json" in ended.out or (victim, how) == (0, "kill")
    for folder in states(root):
        assert aggregate(folder).returncode == 0
    assert [*ResultStore(root)] == [key]


@pytest.mark.parametrize("place", ["before kept", "before part", "run"])
def test_ranks_that_the_launcher_starts_again(launcher, root, place) -> None:
    """There is one result, whether the first attempt has kept it or not."""
    process = launcher.start(
        2,
        {"faults": [[1, place, "kill"]], "words": QUICK, "timeout_s": 20},
        "--standalone",
        "--max-restarts",
        "1",
    )

    ended = launcher.end(process)

    assert ended.status == 0, ended.out
    (key,) = ResultStore(root)
    assert f"{key}/result.json" in ended.out
    has_kept = place != "run"
    assert ("an earlier attempt of the launcher has kept" in ended.out) is has_kept


def test_experiments_that_were_kept_are_not_measured_again(launcher, root) -> None:
    """A rank died in the second of two: all were started again, and did that one alone."""
    plan = {"faults": [[1, "before experiment 1", "kill"]], "experiments": 2}

    ended = launcher.end(launcher.start(2, plan, "--standalone", "--max-restarts", "1"))

    assert ended.status == 0, ended.out
    assert "an earlier attempt of the launcher has kept the result of this run at" in ended.out
    assert len(ResultStore(root)) == 2


def test_two_runs_of_one_launcher(launcher, root) -> None:
    """One after the other, each in processes of its own."""
    run = shlex.join([sys.executable, "-m", "llem", "run", "--root", str(root), *QUICK])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    command = [*launch, "--nproc-per-node", "2", "sh", "-c", f"{run} && {run}"]

    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=launcher.environment
    )

    assert done.returncode == 0, done.stderr
    assert len(ResultStore(root)) == 2


def test_a_keep_that_fails_is_told_at_once(launcher, root) -> None:
    """Nobody waits for the result of one that cannot put it."""
    began = time.monotonic()

    ended = launcher.run(2, faults=[[0, "before kept", "raise"]], timeout_s=300)

    assert time.monotonic() - began < 60
    assert ended.said[1].startswith("IncompleteRunError: rank 0: RuntimeError: the engine broke")


def test_a_rank_that_raises(launcher, root) -> None:
    """Its reason reaches the others, which tell it."""
    ended = launcher.run(3, faults=[[2, "run", "raise"]])

    assert ended.status != 0
    assert ended.said[2] == "RuntimeError: the engine broke"
    assert ended.said[0].startswith("IncompleteRunError: rank 2: RuntimeError: the engine broke")
    assert len(ResultStore(root)) == 0


def test_a_rank_that_hangs(launcher, root) -> None:
    """The others give up in time, and name it; what they measured is kept, and can be used."""
    began = time.monotonic()

    ended = launcher.run(3, faults=[[1, "run", "hang"]], timeout_s=20)

    assert time.monotonic() - began < 90
    assert ended.status != 0
    late = "rank 1 did not come to the end of the measured window within 20 s"
    assert late in ended.said[0]
    (folder,) = states(root)
    refused = aggregate(folder)
    assert refused.returncode == 1
    assert "rank 1" in refused.stderr
    assert "--allow-incomplete" in refused.stderr
    assert len(ResultStore(root)) == 0
    done = aggregate(folder, "--allow-incomplete")
    assert done.returncode == 0, done.stderr
    result = ResultStore(root).get(next(iter(ResultStore(root))))
    assert [process.process_index for process in result.process_results] == [0, 2]
    assert any("rank 1" in line for line in result.aggregation.warnings)
    assert states(root) == [folder]


def test_ctrl_c(launcher, root) -> None:
    """It ends all ranks; nothing is kept, nothing half written."""
    process = launcher.start(2, {"slower": {"0": 50, "1": 50}})
    launcher.wait_until("run", ranks=2)
    os.kill(process.pid, signal.SIGINT)

    ended = launcher.end(process)

    assert ended.status != 0
    assert "KeyboardInterrupt" in ended.said[0] or "rank" in ended.said[0]
    assert len(ResultStore(root)) == 0
    assert states(root) == []


def test_one_rank_that_is_interrupted(launcher, root) -> None:
    """The others say that it was."""
    ended = launcher.run(2, faults=[[1, "run", "interrupt"]])

    assert ended.status != 0
    assert ended.said[0].startswith("IncompleteRunError: rank 1: interrupted")
    assert len(ResultStore(root)) == 0


def test_a_disk_that_fills_on_one_rank(launcher, root, tmp_path) -> None:
    """What that rank measured is put elsewhere, and the run is finished from there."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(small)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("may not mount a disk of its own")
    try:
        ended = launcher.run(2, roots=[str(root), str(small / "root")])
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)

    assert ended.status != 0
    assert "rank 1: " in ended.said[0]
    assert "free some space" in ended.said[0]
    assert len(ResultStore(root)) == 0
    (folder,) = states(root)
    (shelter,) = re.findall(r"was put into (\S+?):", ended.said[1])
    for file in Path(shelter).glob("process-*"):
        shutil.copy(file, folder)
    done = aggregate(folder)
    assert done.returncode == 0, done.stderr
    assert ResultStore(root).get(next(iter(ResultStore(root)))).aggregation.num_processes == 2


def test_two_that_aggregate_at_once(launcher, root) -> None:
    """One result is kept."""
    launcher.run(2, faults=[[1, "before over", "kill"]], timeout_s=20)
    (folder,) = states(root)
    command = [sys.executable, "-m", "llem", "aggregate", str(folder)]

    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [one.communicate()[1] for one in both]

    assert 0 in [one.returncode for one in both], said
    assert len(ResultStore(root)) == 1
    assert states(root) == []


@pytest.mark.parametrize("where", ["before end", "after end"])
def test_a_rank_that_is_told_to_end_once_it_has_measured(launcher, root, where) -> None:
    """What it measured is left before it ends."""
    ended = launcher.run(2, faults=[[1, where, "terminate"]], timeout_s=20)

    assert ended.status != 0
    assert len(ResultStore(root)) == 0
    (folder,) = states(root)
    done = aggregate(folder)
    assert done.returncode == 0, done.stderr
    assert ResultStore(root).get(next(iter(ResultStore(root)))).total_tokens == 16 * 7


def test_a_store_that_does_not_answer(tmp_path) -> None:
    """It is given up in time, what was measured is kept, and a signal ends the wait."""
    code = f"""
import os, signal, sys, threading, time, types
import llem
from llem.distributed import board, errand, joined

class Deaf(errand.LocalStore):
    def check(self, keys):
        if any("/end/" in key or key.endswith("end/all") for key in keys):
            time.sleep(600)
        return super().check(keys)

board.ANSWER_S = 1.0
joined.LocalStore = Deaf
config = llem.ExperimentConfig(model="m", energy=llem.EnergyConfig(backend=None))
try:
    with llem.Ranks({str(tmp_path)!r}, timeout_s=2) as ranks:
        with llem.Experiment(config, peers=ranks) as run:
            run.record(input_tokens=1, output_tokens=1, latency_s=0.0)
        ranks.keep()
except llem.IncompleteRunError as error:
    print(error, *error.__notes__)
"""
    began = time.monotonic()

    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert time.monotonic() - began < 30
    assert "the store of the ranks cannot be reached any more: no answer within" in ended.stdout
    (folder,) = states(tmp_path)
    assert str(folder) in ended.stdout
    assert aggregate(folder).returncode == 0
