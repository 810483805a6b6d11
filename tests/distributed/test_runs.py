"""Real runs of many ranks, which end in exactly one result."""

import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from llem.domain.result import ExperimentResult
from llem.measure import timings
from llem.store import ResultStore

pytestmark = pytest.mark.torch


def kept(root: Path) -> ExperimentResult:
    """The one result in *root*, beside which nothing is left."""
    store = ResultStore(root)
    assert len(store) == 1
    assert sorted(path.name for path in root.iterdir()) == [*store, ".llem-tmp"][::-1]
    assert store.verify().faults == ()
    return store.get(next(iter(store)))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("count", [2, 4, 8])
def test_ranks_with_a_gpu_each(launcher, root, count) -> None:
    """Each prompt is run once, each GPU measured once, and time counts once."""
    gpus = {str(rank): [f"GPU-{rank}"] for rank in range(count)}

    ended = launcher.run(count, gpus=gpus, model=True, n=16 * count)

    assert ended.status == 0, ended.out
    assert ended.said == {0: "kept"} | dict.fromkeys(range(1, count), "done")
    result = kept(root)
    assert result.total_tokens == 16 * count * (8 + 4)
    assert [device.uuid for device in result.devices] == [f"GPU-{rank}" for rank in range(count)]
    read = timings(ResultStore(root).timeseries(next(iter(ResultStore(root)))))
    for device, process in zip(result.devices, result.process_results, strict=True):
        watts = 100 + 10 * process.process_index
        drawn_j = watts * process.inference_metrics.inference_time_sec
        # A counter is read at any time of those that reading it took, at both edges.
        while_read_j = watts * read[device.gpu_index].spread_s
        assert device.energy_j == pytest.approx(drawn_j, abs=while_read_j + 2e-3)
    assert result.total_energy_j == pytest.approx(sum(result.energy_per_device_j))
    assert result.multi_gpu.num_gpus == count
    assert result.aggregation.num_processes == count
    assert result.aggregation.temporal_overlap_verified
    assert result.aggregation.gpu_attribution_verified
    assert result.aggregation.clock_offsets == ()
    windows = [process.timestamps for process in result.process_results]
    spread_s = (max(w.start for w in windows) - min(w.start for w in windows)).total_seconds()
    assert spread_s < 0.1
    span_s = (max(w.end for w in windows) - min(w.start for w in windows)).total_seconds()
    assert result.total_inference_time_sec == pytest.approx(span_s, abs=1e-3)


def test_two_ranks_on_one_gpu(launcher, root) -> None:
    """Its energy counts once, and the record says that it was shared."""
    ended = launcher.run(2, gpus={"0": ["GPU-0"], "1": ["GPU-0"]})

    assert ended.status == 0, ended.out
    result = kept(root)
    assert [device.uuid for device in result.devices] == ["GPU-0"]
    # The reading of one of them counts, and their windows are not quite the same.
    lasted_s = [one.inference_metrics.inference_time_sec for one in result.process_results]
    assert 99 * min(lasted_s) < result.total_energy_j < 101 * max(lasted_s)
    assert result.total_tokens == 16 * 7
    assert result.aggregation.gpu_attribution_verified is False
    assert result.multi_gpu is None


def test_a_rank_that_is_slower(launcher, root) -> None:
    """The window of the other one ends with its own work, and so does its energy."""
    ended = launcher.run(2, gpus={"0": ["GPU-0"], "1": ["GPU-1"]}, slower={"1": 10})

    assert ended.status == 0, ended.out
    result = kept(root)
    quick_s, slow_s = (p.inference_metrics.inference_time_sec for p in result.process_results)
    assert slow_s > 8 * 0.22
    assert quick_s < slow_s / 2
    assert result.energy_per_device_j == pytest.approx((100 * quick_s, 110 * slow_s), rel=0.05)
    assert any("none of what they drew waiting" in line for line in result.aggregation.warnings)


def test_each_prompt_is_run_once(launcher, tmp_path) -> None:
    """By one of the ranks, each of which has some."""
    ended = launcher.run(3, n=16)

    assert ended.status == 0, ended.out
    files = sorted((tmp_path / "said").glob("*.prompts"))
    shares = [[int(line) for line in file.read_text().split()] for file in files]
    assert sorted(map(len, shares)) == [5, 5, 6]
    assert sorted(prompt for share in shares for prompt in share) == [*range(16)]


def test_a_rank_with_several_gpus(launcher, root) -> None:
    """All of them are measured, and come in the order of the ranks."""
    ended = launcher.run(2, gpus={"0": ["GPU-0", "GPU-1"], "1": ["GPU-2", "GPU-3"]})

    assert ended.status == 0, ended.out
    result = kept(root)
    assert [device.uuid for device in result.devices] == ["GPU-0", "GPU-1", "GPU-2", "GPU-3"]
    assert [device.gpu_index for device in result.devices] == [0, 1, 2, 3]
    watts = 100 + 110 + 120 + 130
    assert result.total_energy_j == pytest.approx(watts * result.total_inference_time_sec, rel=0.01)


def test_gpus_that_no_rank_names_are_shared_out(launcher, root) -> None:
    """An engine of one's own says nothing of them, and torchrun shows each rank all of them."""
    ended = launcher.run(4, bare=True)

    assert ended.status == 0, ended.out
    result = kept(root)
    assert [[device.uuid for device in one.devices] for one in result.process_results] == [
        [f"GPU-{2 * rank}", f"GPU-{2 * rank + 1}"] for rank in range(4)
    ]
    assert len(result.devices) == 8
    assert result.aggregation.gpu_attribution_verified


def test_idle_power_is_measured_while_all_are_idle(launcher, root) -> None:
    """That of all GPUs together is taken off."""
    gpus = {"0": ["GPU-0"], "1": ["GPU-1"]}

    ended = launcher.run(2, gpus=gpus, baseline_s=0.3)

    assert ended.status == 0, ended.out
    result = kept(root)
    assert result.baseline_power_w == pytest.approx(210, rel=0.05)
    assert abs(result.energy_adjusted_j) < 0.1 * result.total_energy_j


def test_ranks_without_meter(launcher, root) -> None:
    """What was not measured is None, and there is no sidecar."""
    ended = launcher.run(2)

    assert ended.status == 0, ended.out
    result = kept(root)
    assert result.total_energy_j is None
    assert result.timeseries is None
    assert result.aggregation.gpu_attribution_verified is None
    assert any(line.startswith("energy_not_measured") for line in result.measurement_warnings)


def test_one_rank(launcher, root) -> None:
    """It is a run like any other."""
    ended = launcher.run(1, gpus={"0": ["GPU-0"]})

    assert ended.status == 0, ended.out
    assert kept(root).aggregation.method == "single_process"


def run_on_two_nodes(launcher, count: int, within: Sequence[str] = (), **plan) -> list[Any]:
    """*count* ranks on each of two nodes of this machine, the second one *within* something."""
    port = str(free_port())

    def node(rank: int):
        where = ["--nnodes", "2", "--node-rank", str(rank)]
        where += ["--master-addr", "127.0.0.1", "--master-port", port]
        return launcher.start(
            count, plan, *where, name=f"node{rank}", within=within if rank else ()
        )

    return [launcher.end(one) for one in [node(0), node(1)]]


def test_nodes_that_share_no_file_system(launcher, tmp_path) -> None:
    """What the other node's ranks left reaches rank 0, and nothing stays behind."""
    gpus = {str(rank): [f"GPU-{rank}"] for rank in range(4)}
    roots = [str(tmp_path / name) for name in ("one", "one", "two", "two")]

    ends = run_on_two_nodes(launcher, 2, gpus=gpus, roots=roots)

    assert [end.status for end in ends] == [0, 0], [end.out for end in ends]
    result = kept(tmp_path / "one")
    assert result.aggregation.num_processes == 4
    assert result.aggregation.clock_offsets == ()
    assert len(result.devices) == 4
    times = ResultStore(tmp_path / "one").timeseries(next(iter(ResultStore(tmp_path / "one"))))
    assert set(times.column("gpu_index").to_pylist()) == {0, 1, 2, 3}
    assert not list((tmp_path / "two").rglob("process-*"))
    assert not (tmp_path / "two" / ".state").exists()


def test_nodes_with_clocks_of_their_own(launcher, root) -> None:
    """Their times are by the clock of rank 0, and how far theirs are off is recorded."""
    own_clock = ["unshare", "--time", "--monotonic", "100000"]
    if subprocess.run([*own_clock, "true"], check=False, capture_output=True).returncode:
        pytest.skip("may not give a process a clock of its own")
    gpus = {"0": ["GPU-0"], "1": ["GPU-1"], "2": ["GPU-2"], "3": ["GPU-3"]}

    ends = run_on_two_nodes(
        launcher, 2, own_clock, gpus=gpus, wrong_by_s={"2": -3600.0, "3": 7200.0}
    )

    assert [end.status for end in ends] == [0, 0], [end.out for end in ends]
    result = kept(root)
    offsets = result.aggregation.clock_offsets
    assert [one.process_index for one in offsets] == [2, 3]
    for one, wrong_by_s in zip(offsets, (-3600.0, 7200.0), strict=True):
        assert abs(one.offset_s - wrong_by_s) <= one.error_bound_s + 0.01
        assert one.error_bound_s < 0.1
    assert result.aggregation.temporal_overlap_verified
    starts = [process.timestamps.start for process in result.process_results]
    assert (max(starts) - min(starts)).total_seconds() < 0.2
    table = ResultStore(root).timeseries(next(iter(ResultStore(root))))
    times = table.column("timestamp_s").to_pylist()
    assert times == sorted(times)
    assert -5 < times[0] < times[-1] < 60


@pytest.mark.parametrize("when", ["own_group", "group_inside"])
def test_a_process_group_of_the_program(launcher, root, when) -> None:
    """It is left as it was, and an engine may make its own meanwhile."""
    ended = launcher.run(2, **{when: True})

    assert ended.status == 0, ended.out
    assert kept(root).aggregation.num_processes == 2


def test_an_experiment_named_with_a_slash(launcher, root) -> None:
    """The name of the run is a plain one."""
    ended = launcher.run(2, models={"0": "meta/llama", "1": "meta/llama"})

    assert ended.status == 0, ended.out
    assert kept(root).experiment_id.startswith("meta/llama_")


def test_runs_of_one_root_at_once(launcher, root) -> None:
    """Each takes what its own ranks left."""
    started = [launcher.start(2, {"n": n}, name=f"plan{n}") for n in (4, 8)]
    ends = [launcher.end(one) for one in started]

    assert [end.status for end in ends] == [0, 0], [end.out for end in ends]
    store = ResultStore(root)
    assert sorted(store.get(key).total_tokens for key in store) == [4 * 7, 8 * 7]
    assert not (root / ".state").exists()


def test_ranks_that_differ(launcher, root) -> None:
    """They are refused before anything is measured."""
    ended = launcher.run(2, models={"0": "one", "1": "another"})

    assert ended.status != 0
    assert "rank 1 does not run what rank 0 does: model another and not one" in ended.said[0]
    assert not ResultStore(root)


def test_more_ranks_than_prompts(launcher, root) -> None:
    """They are told how many there have to be."""
    ended = launcher.run(3, n=2)

    assert ended.status != 0
    assert "n is 2, and there are 3 ranks" in "".join(ended.said.values())
