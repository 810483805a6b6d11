"""The figures of every process of a run agree with the one time series that is kept of it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llem.aggregate import aggregate_results
from llem.auditing import Audit, audit
from llem.domain.config import BaselineConfig, ExperimentConfig
from llem.domain.energy import Sensor
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import REQUESTS_KEY, STRIDE_KEY, TIMING_KEY
from llem.experiment import Experiment
from llem.measure import ReplayMeter
from llem.protocols import Clock, Device, Samples
from llem.store import ResultStore
from llem.store.blocks import BlockWriter
from llem.store.merge import Piece, merge

CONFIG = ExperimentConfig(
    model="mine", backend="theirs", baseline=BaselineConfig(enabled=False), random_seed=1
)
TICKS, PERIOD_S = 300, 0.1
GPUS = (("GPU-0", "GPU-1"), ("GPU-2",), ("GPU-0",))
"""Of each process: the first and the last one meter the same device."""

STARTS_S = (0.0, 1.2345678, -0.7)
WINDOWS_S = (12.0, 9.0, 15.0)
INDEX_OF = {(0, "GPU-0"): 0, (0, "GPU-1"): 1, (1, "GPU-2"): 2, (2, "GPU-0"): 3}


class FakeClock(Clock):
    """Starts at an odd moment, and moves when someone sleeps."""

    def __init__(self, ahead_s: float) -> None:
        self.time_s = 1234.567890123 + ahead_s

    def monotonic(self) -> float:
        return self.time_s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time_s)

    def sleep(self, seconds: float, /) -> None:
        self.time_s += seconds


def powers(rank: int, device: int) -> np.ndarray:
    """Readings, none of which is like its neighbours, nor like those of another device."""
    phase = np.arange(TICKS) * 7 % (11 + rank)
    return 100.0 + 40 * rank + 90 * device + 20 * phase / 11


def measured(rank: int) -> Experiment:
    """What one process measured, by itself: two requests, the first token after a third."""
    clock = FakeClock(STARTS_S[rank])
    devices = [
        Device(index=i, uuid=uuid, name="GPU", sensor=Sensor.REPLAY, period_s=PERIOD_S)
        for i, uuid in enumerate(GPUS[rank])
    ]
    samples = Samples(
        times_s=np.arange(TICKS) * PERIOD_S,
        power_w=np.stack([powers(rank, i) for i in range(len(devices))], axis=1),
        temperature_c=np.full((TICKS, len(devices)), 40.0),
    )
    meter = ReplayMeter(devices, samples, clock=clock)
    with Experiment(CONFIG, clock=clock, meter=meter, experiment_id="mine/1") as run:
        latency_s = WINDOWS_S[rank] / 2
        for _ in range(2):
            clock.sleep(latency_s)
            run.record(input_tokens=8, output_tokens=2, latency_s=latency_s, ttft_s=latency_s / 3)
    return run


@attrs.frozen
class Merged:
    """A result of several processes, their pieces, and the path of what was merged of them."""

    result: ExperimentResult
    pieces: tuple[Piece, ...]
    path: Path

    @property
    def table(self) -> pa.Table:
        return pq.ParquetFile(self.path).read()


def numbered(table: pa.Table, first: int) -> pa.Table:
    """As the caller has it: indices that no other process has."""
    index = pa.array([first + i for i in table["gpu_index"].to_pylist()], pa.int32())
    told = dict(table.schema.metadata)
    timing = json.loads(told[TIMING_KEY])
    told[TIMING_KEY] = json.dumps({str(first + int(i)): one for i, one in timing.items()})
    return table.set_column(3, table.field(3), index).replace_schema_metadata(told)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Merged:
    """Of three processes, on three devices."""
    folder = tmp_path_factory.mktemp("pieces")
    runs = [measured(rank) for rank in range(len(GPUS))]
    start = min(run.result.start_time for run in runs)
    processes, pieces = [], []
    for rank, run in enumerate(runs):
        first = min(index for (of, _), index in INDEX_OF.items() if of == rank)
        (process,) = run.result.process_results
        devices = tuple(attrs.evolve(d, gpu_index=first + d.gpu_index) for d in process.devices)
        processes.append(attrs.evolve(process, process_index=rank, devices=devices))
        path, table = folder / f"{rank}.parquet", numbered(run.timeseries, first)
        with BlockWriter(path, table.schema) as writer:
            writer.write(table)
        shift_s = (run.result.start_time - start).total_seconds()
        pieces.append(Piece(path=path, shift_s=shift_s, process_index=rank))
    result = aggregate_results(
        processes,
        measurement_config_hash=runs[0].result.measurement_config_hash,
        start_time=start,
    )
    merge(pieces, folder / "merged")
    return Merged(result, tuple(pieces), folder / "merged")


def differing(found: Audit) -> list[str]:
    return [check.name for check in found.checks if check.agrees is False]


def agreeing(found: Audit) -> set[str]:
    return {check.name for check in found.checks if check.agrees}


DEVICES = {
    f"process {rank} device {index} ({uuid})": index for (rank, uuid), index in INDEX_OF.items()
}
PHASES = {f"process {rank} phases.{name}" for rank in range(3) for name in ("prefill", "decode")}


def test_every_figure_of_every_process_is_computed_anew(merged: Merged) -> None:
    """Two that metered one device have samples of their own, and windows."""
    found = audit(merged.result, merged.table)

    assert differing(found) == []
    assert found.complete
    fields = ("integrated_j", "sample_count", "max_gap_s", "coverage", "error_bound_j")
    assert {f"{name} {field}" for name in DEVICES for field in fields} <= agreeing(found)
    assert {f"{name}.energy_j" for name in PHASES} <= agreeing(found)
    assert merged.result.total_energy_j == pytest.approx(
        sum(d.energy_j for d in merged.result.devices)
    )
    assert [d.gpu_index for d in merged.result.devices] == [3, 1, 2]


def test_what_is_kept_of_it_agrees_as_well(merged: Merged, tmp_path: Path) -> None:
    """Put from its file. It tells of each device of each process."""
    store = ResultStore(tmp_path)

    kept = store.put(merged.result, timeseries=merged.path)

    table = store.timeseries(kept)
    assert audit(store.get(kept), table) == audit(merged.result, merged.table)
    told = json.loads(table.schema.metadata[b"llem.devices"])
    assert {(d["process_index"], d["uuid"]): int(i) for i, d in told.items()} == INDEX_OF
    assert set(told) == {str(index) for index in table["gpu_index"].unique().to_pylist()}


@pytest.mark.parametrize("name", DEVICES)
def test_a_row_that_was_changed_is_found(merged: Merged, name: str) -> None:
    """The device of the process is named, and the phases of the process, and no other."""
    rows = np.flatnonzero(np.array(merged.table["gpu_index"].to_pylist()) == DEVICES[name])
    power_w = np.array(merged.table["gpu_power_w"].to_pylist())
    power_w[rows[len(rows) // 4]] *= 3
    table = merged.table.set_column(1, "gpu_power_w", pa.array(power_w, pa.float32()))

    found = differing(audit(merged.result, table))

    assert f"{name} integrated_j" in found
    assert {one[: len("process 0")] for one in found} == {name[: len("process 0")]}
    assert not any(one.startswith(other) for one in found for other in DEVICES if other != name)


@pytest.mark.parametrize("rank", range(3))
def test_times_of_a_process_that_were_moved_are_found(merged: Merged, rank: int) -> None:
    """As by a piece that was shifted wrongly."""
    own = [index for (of, _), index in INDEX_OF.items() if of == rank]
    is_own = np.isin(np.array(merged.table["gpu_index"].to_pylist()), own)
    times_s = np.array(merged.table["timestamp_s"].to_pylist()) + 0.03 * is_own
    table = merged.table.set_column(0, "timestamp_s", pa.array(times_s))

    found = differing(audit(merged.result, table))

    assert found
    assert all(name.startswith(f"process {rank} ") for name in found)
    assert {f"{name} integrated_j" for name in DEVICES if name[8] == str(rank)} <= {*found}


def changed_process(
    result: ExperimentResult, rank: int, change: Callable[[Any], Any]
) -> ExperimentResult:
    processes = [
        change(one) if one.process_index == rank else one for one in result.process_results
    ]
    return attrs.evolve(result, process_results=tuple(processes))


@pytest.mark.parametrize("rank", range(3))
def test_phases_that_were_changed_are_found(merged: Merged, rank: int) -> None:
    """Of whichever process, though they add up."""

    def change(process: Any) -> Any:
        prefill, decode, other = process.energy_breakdown.phases
        moved = (
            attrs.evolve(prefill, energy_j=prefill.energy_j + 50),
            attrs.evolve(decode, energy_j=decode.energy_j - 50),
            other,
        )
        breakdown = attrs.evolve(process.energy_breakdown, phases=moved)
        return attrs.evolve(process, energy_breakdown=breakdown)

    found = audit(changed_process(merged.result, rank, change), merged.table)

    assert {
        f"process {rank} phases.prefill.energy_j",
        f"process {rank} phases.decode.energy_j",
    } <= {*differing(found)}
    assert not any("phases" in name for name in differing(found) if f"process {rank}" not in name)


def test_requests_are_those_of_the_process(merged: Merged) -> None:
    """Those of another give other phases; without its own there is nothing to check."""
    told = json.loads(merged.table.schema.metadata[REQUESTS_KEY])
    exchanged = {"0": told["1"], "1": told["0"]}
    metadata = {**merged.table.schema.metadata, REQUESTS_KEY: json.dumps(exchanged)}

    found = audit(merged.result, merged.table.replace_schema_metadata(metadata))

    assert {f"process {rank} phases.prefill.energy_j" for rank in (0, 1)} <= {*differing(found)}
    assert not any("process 2" in name for name in differing(found))
    unknown = [c for c in found.checks if c.name == "process 2 phases.prefill.energy_j"]
    assert [(c.agrees, "when requests ran" in c.note) for c in unknown] == [(None, True)]


def test_of_a_series_with_every_second_tick_no_figure_is_false(
    merged: Merged, tmp_path: Path
) -> None:
    """Nor is one confirmed: why is said of each, and what does not rest on samples is checked."""
    merge(merged.pieces, tmp_path / "thinned", max_rows=merged.table.num_rows - 1)
    table = pq.ParquetFile(tmp_path / "thinned").read()
    assert table.schema.metadata[STRIDE_KEY] == b"2"

    found = audit(merged.result, table)

    assert differing(found) == []
    assert not found.complete
    unchecked = {c.name: c.note for c in found.checks if c.agrees is None}
    assert {f"{name} integrated_j" for name in DEVICES} <= {*unchecked}
    assert {f"{name}.energy_j" for name in PHASES} <= {*unchecked}
    assert {*unchecked.values()} == {"the time series keeps but one tick of 2"}
    assert "total_energy_j" in agreeing(found)
    worse = attrs.evolve(merged.result, total_energy_j=merged.result.total_energy_j * 1.01)
    assert "total_energy_j" in differing(audit(worse, table))


@pytest.mark.parametrize("odd", [b"", b"1", b"0", b"-3", b"x", b"2.5", b"\xff", b"1" * 5000])
def test_a_stride_that_is_none_keeps_nothing_from_being_checked(merged: Merged, odd: bytes) -> None:
    """As of a file that was changed."""
    metadata = {**merged.table.schema.metadata, STRIDE_KEY: odd}

    assert audit(merged.result, merged.table.replace_schema_metadata(metadata)).complete


def test_a_process_without_samples_is_not_checked(merged: Merged) -> None:
    """The others are: there is one piece less."""
    keep = pa.compute.less(merged.table["gpu_index"], 2)

    found = audit(merged.result, merged.table.filter(keep))

    assert differing(found) == []
    assert {f"{name} integrated_j" for name in DEVICES if name[8] == "0"} <= agreeing(found)
    unchecked = {check.name for check in found.checks if check.agrees is None}
    assert {f"{name} integrated_j" for name in DEVICES if name[8] != "0"} <= unchecked


def test_phases_without_a_device_are_not_checked(merged: Merged) -> None:
    """There is nothing that they would be the energy of."""
    result = changed_process(merged.result, 1, lambda process: attrs.evolve(process, devices=()))

    found = audit(result, merged.table)

    (prefill,) = [c for c in found.checks if c.name == "process 1 phases.prefill.energy_j"]
    assert prefill.agrees is None
