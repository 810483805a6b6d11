"""
The public names as a user writes them. Type checkers read this, nobody runs it.

The third-party classes inherit nothing, and call their parameters what they like.
"""
# ruff: noqa: T201

import os
from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

import llem

if TYPE_CHECKING:
    import pyarrow as pa


def make_config() -> llem.ExperimentConfig:
    """A configuration, nested ones included."""
    return llem.ExperimentConfig(
        model="gpt2",
        n=64,
        precision="fp16",
        batch_size=8,
        synthetic_dataset=llem.SyntheticDataset(input_len=128, output_len=32),
        decoder=llem.DecoderConfig(do_sample=True, temperature=0.7, top_p=0.9),
        warmup=llem.WarmupConfig(convergence_detection=True),
        baseline=llem.BaselineConfig(duration_seconds=10),
        energy=llem.EnergyConfig(backend="nvml"),
        passthrough_kwargs={"num_beams": 2},
    )


def make_process(config: llem.ExperimentConfig) -> llem.RawProcessResult:
    """What one process measured."""
    start = datetime(2026, 3, 13, tzinfo=UTC)
    return llem.RawProcessResult(
        experiment_id="mine/1",
        process_index=0,
        gpu_name="GPU",
        config_name="mine",
        model_name=config.model,
        timestamps=llem.Timestamps(start=start, end=start + timedelta(seconds=60)),
        inference_metrics=llem.InferenceMetrics(
            total_tokens=3,
            input_tokens=1,
            output_tokens=2,
            inference_time_sec=60,
            tokens_per_second=0.05,
            latency_per_token_ms=20_000,
            latency_measurements=llem.LatencyMeasurements(
                ttft_ms=(1.5,), measurement_mode=llem.MeasurementMode.TRUE_STREAMING
            ),
        ),
        energy_metrics=llem.EnergyMetrics(total_energy_j=12.5, duration_sec=60),
        compute_metrics=llem.ComputeMetrics(flops_total=None, flops_confidence="high"),
        effective_config={"model": config.model, "decoder": {"stop": ["a", None]}},
        extended_metrics=llem.ExtendedEfficiencyMetrics(
            memory=llem.MemoryEfficiencyMetrics(peak_memory_mb=1024),
            batch=llem.BatchEfficiencyMetrics(num_batches=1),
        ),
        energy_breakdown=llem.EnergyBreakdown(
            baseline_method=llem.BaselineMethod.FRESH,
            phases=(
                llem.PhaseEnergy(
                    phase=llem.Phase.PREFILL,
                    energy_j=2.5,
                    error_bound_j=0.5,
                    duration_s=10,
                    spans=4,
                ),
                llem.PhaseEnergy(phase=llem.Phase.DECODE, duration_s=40, code="phase_too_short"),
            ),
        ),
        devices=(
            llem.DeviceEnergy(
                gpu_index=0,
                uuid="GPU-0",
                name="GPU",
                energy_j=12.5,
                sensor=llem.Sensor.NVML_TOTAL_ENERGY,
            ),
        ),
    )


def make_result(config: llem.ExperimentConfig) -> llem.ExperimentResult:
    """A result of one process, and read back."""
    result: llem.ExperimentResult = llem.aggregate_results(
        [make_process(config)],
        measurement_config_hash=llem.measurement_config_hash(config),
        measurement_methodology="steady_state",
        steady_state_window=(0.0, 60.0),
        measurement_warnings=["no_baseline: none"],
    )
    text: bytes = llem.to_json(result)
    return llem.from_json(text.decode())


def read(result: llem.ExperimentResult) -> float:
    """What a reader does: None is looked for before a figure is used."""
    energy: float | None = result.total_energy_j
    per_token: float | None = result.energy_per_output_token_j
    methodology: Literal["total", "steady_state", "windowed"] = result.measurement_methodology
    window: tuple[float, float] | None = result.steady_state_window
    devices: tuple[llem.DeviceEnergy, ...] = result.devices
    model: Any = result.effective_config["model"]
    verified: bool | None = result.aggregation.temporal_overlap_verified
    gpus: Sequence[llem.GPUEnvironment] = (
        result.environment_snapshot.hardware.gpus if result.environment_snapshot else ()
    )
    print(methodology, window, model, verified, gpus, [device.sensor.value for device in devices])
    return (energy or 0.0) + (per_token or 0.0) + result.duration_sec


def read_phases(breakdown: llem.EnergyBreakdown) -> dict[llem.Phase, float]:
    """The energy of each phase that has a figure, less its bound."""
    least: dict[llem.Phase, float] = {}
    for phase in breakdown.phases:
        energy: float | None = phase.energy_j
        bound: float | None = phase.error_bound_j
        if energy is None:
            code: str | None = phase.code
            print(phase.phase.value, code, phase.duration_s, phase.spans)
        else:
            least[phase.phase] = energy - (bound or 0.0)
    return least


def check(store: llem.Store, key: llem.Key) -> bool:
    """Whether the figures of a result agree with their evidence."""
    found: llem.Audit = llem.audit(store.get(key), store.timeseries(key))
    checks: tuple[llem.Check, ...] = found.checks
    for each in checks:
        agrees: bool | None = each.agrees
        recorded: float | None = each.recorded
        recomputed: float | None = each.recomputed
        name: str = each.name
        print(name, agrees, recorded, recomputed, each.tolerance, each.note)
    return found.agrees and llem.audit(store.get(key), None).agrees


def keep(store: llem.Store, result: llem.ExperimentResult, table: "pa.Table") -> None:
    """Every method of a store, by every kind of key."""
    kept: llem.StoredResult = store.put(result, timeseries=table)
    store.put(result)
    store.put(result, timeseries="samples.parquet")
    store.put(result, timeseries=Path("samples.parquet"))
    for key in (kept, kept.key, Path(kept.path)):
        again: llem.ExperimentResult = store.get(key)
        samples: pa.Table | None = store.timeseries(key)
        print(again, samples, key in store)
    keys: list[str] = [*store]
    count: int = len(store)
    print(keys, count, os.fspath(kept), 3 in store)


def verify(store: llem.ResultStore) -> list[llem.StoreFault]:
    """What only the store on a file system does, and a lone folder."""
    found: llem.Verification = store.verify()
    lone: llem.ExperimentResult = llem.load(store.root / "some_folder")
    print(lone)
    store.remove("some_folder")
    repair: llem.Repair = store.repair(progress=print)
    moved: list[tuple[str, str | None]] = [(one.path, one.to) for one in repair.moved]
    print(moved, [fault.advice for fault in repair.left])
    return list(found.faults)


def bring_along(document: bytes, folder: Path) -> list[str]:
    """A document of another tool, with what lies beside it."""
    imported: llem.Imported = llem.convert(
        document, beside={"config.json": (folder / "config.json").read_bytes()}, source="theirs"
    )
    fields: tuple[llem.Unmapped, ...] = imported.unmapped
    llem.MemoryStore().put(imported.without_timeseries("not needed").result)
    return [f"{field.path} {field.value} {field.reason}" for field in fields] + [*imported.notes]


def catch(store: llem.Store) -> llem.ExperimentResult | None:
    """Errors by their own names, or by the builtin's."""
    try:
        return store.get("nothing")
    except (llem.ResultIntegrityError, llem.SchemaVersionError) as error:
        print(error)
    except llem.ResultValidationError as error:
        faults: tuple[tuple[str, str], ...] = error.faults
        field: str | None = error.field
        print(faults, field)
    except FileNotFoundError:
        pass
    except llem.LlemError:
        raise
    return None


def measure(config: llem.ExperimentConfig, meter: llem.EnergyMeter, clock: llem.Clock) -> None:
    """One's own inference code, measured."""
    info = llem.BackendInfo(device="cuda:0", device_name="GPU", device_uuids=("GPU-0",))
    with llem.Experiment(config, info=info, meter=meter, clock=clock) as run:
        warmup: llem.WarmupResult | None = run.warm_up(lambda: 0.5)
        run.record(input_tokens=8, output_tokens=2, latency_s=0.5)
        run.record(
            input_tokens=[8, 9],
            output_tokens=(2, 3),
            latency_s=1,
            ttft_s=0.1,
            itl_s=[0.1, 0.2],
            padding_tokens=1,
            flops=1e9,
            mode=llem.MeasurementMode.PER_REQUEST_BATCH,
            ended_s=clock.monotonic(),
        )
    if run.timeseries is not None:
        keep(llem.MemoryStore(), run.result, run.timeseries)
    print(warmup)


def measure_a_window(config: llem.ExperimentConfig) -> llem.ExperimentResult:
    """A part of one's own code, with an idle power that was measured earlier."""
    with llem.Experiment(
        config, meter=None, baseline_max_age_s=3600, baseline_folder=Path("baselines")
    ) as run:
        run.record(input_tokens=8, output_tokens=2, latency_s=0.5)
        with run.window():
            run.record(input_tokens=8, output_tokens=2, latency_s=0.5, ttft_s=0.1)
    return run.result


def sample(times: Sequence[float]) -> tuple[llem.Samples, ...]:
    """Columns as lists, nested or not, or as arrays, where one device was read or many."""
    readings = np.full((len(times), 2), 100.0)
    return (
        llem.Samples(),
        llem.Samples(times_s=times, power_w=list(times), temperature_c=list(times)),
        llem.Samples(
            times_s=[0.0, 0.5],
            power_w=[[100.0, 50.0], [float("nan"), 60]],
            temperature_c=[(40, 41), (40, 41)],
            notes=("GPU-0: power: Unknown Error",),
        ),
        llem.Samples(
            times_s=np.asarray(times),
            power_w=readings,
            temperature_c=readings.astype(np.float32),
            counter_j=readings,
            utilisation_pct=readings,
            memory_utilisation_pct=readings,
            memory_mb=readings,
            clock_event_reasons=np.zeros((len(times), 2), np.uint32),
            reading_age_s=readings,
            stride=2,
        ),
    )


def look_at(samples: llem.Samples) -> float:
    """Columns are arrays, whatever they were made of."""
    power: npt.NDArray[np.float32] = samples.power_w
    times: npt.NDArray[np.float64] = samples.times_s
    counters: npt.NDArray[np.float64] | None = samples.counter_j
    reasons: npt.NDArray[np.uint32] | None = samples.clock_event_reasons
    few: llem.Samples = samples.between(0, 2)
    print(power.shape, counters, reasons, few.notes)
    return float(times[-1])


class TheirStore:
    """A store of strangers."""

    def __init__(self) -> None:
        self._kept: dict[str, llem.ExperimentResult] = {}

    def put(
        self,
        record: llem.ExperimentResult,
        *,
        timeseries: "pa.Table | str | os.PathLike[str] | None" = None,
        replace: bool = False,
    ) -> llem.StoredResult:
        """Takes another name for its parameter, and one more that has a default."""
        key = f"{record.experiment_id} {timeseries} {replace}"
        self._kept[key] = record
        return llem.StoredResult(key=key, path="", result=record)

    def get(self, name: llem.Key) -> llem.ExperimentResult:
        """Another name."""
        return self._kept[os.fspath(name)]

    def timeseries(self, which: llem.Key) -> "pa.Table | None":
        """Another name."""
        print(which)
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, name: object) -> bool:
        return name in self._kept


class TheirMeter:
    """A meter of strangers: attributes where the protocol has properties."""

    def __init__(self) -> None:
        self.name = "theirs"
        self.devices = (
            llem.Device(
                index=0,
                uuid="PDU-1",
                name="PDU",
                sensor=llem.Sensor.ENGINE,
                period_s=1,
                limit_w=300,
                refresh_s=0.1,
                window_s=0.025,
                counter_refresh_s=0.02,
                counter_range_j=1e6,
            ),
        )

    def start(self) -> None:
        """Begin."""

    def mark(self) -> llem.Edge:
        """An edge."""
        return llem.Edge(time_s=0.0, counters_j=(None,), spread_s=1e-4)

    def stop(self) -> llem.Samples:
        """The samples."""
        return llem.Samples(
            times_s=array("d", [0.0]),
            power_w=(array("d", [1.0]),),
            temperature_c=(array("d", [40.0]),),
        )

    def close(self) -> None:
        """End."""


class TheirBackend:
    """A backend of strangers: lists of strings are its prompts."""

    @property
    def name(self) -> str:
        """Its name."""
        return "theirs"

    def load(self, settings: llem.ExperimentConfig) -> llem.BackendInfo:
        """Another name."""
        return llem.BackendInfo(device="cpu", device_name=settings.model)

    def prompts(self) -> list[str]:
        """Narrower than the protocol."""
        return ["one", "two"]

    def generate(self, texts: Sequence[str]) -> llem.BatchOutput:
        """Another name."""
        return llem.BatchOutput(
            input_tokens=tuple(map(len, texts)),
            output_tokens=(1,) * len(texts),
            latency_s=0.1,
            ended_s=12.5,
        )

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def peak_memory_mb(self) -> None:
        """Not known."""

    def close(self) -> None:
        """Nothing to let go of."""


class TheirClock:
    """A clock of strangers."""

    def monotonic(self) -> float:
        """The time."""
        return 0.0

    def now(self) -> datetime:
        """The time of day."""
        return datetime.now(UTC)

    def sleep(self, duration: float) -> None:
        """Another name."""


def count_steps(what: str, done: float, total: float | None) -> None:
    """Hears how far a run is, under names of its own."""
    print(what, done, total)


STORES: list[llem.Store] = [llem.ResultStore("results"), llem.MemoryStore(), TheirStore()]
METER: llem.EnergyMeter = TheirMeter()
BACKEND: llem.InferenceBackend = TheirBackend()
CLOCK: llem.Clock = TheirClock()
PROGRESS: llem.Progress = count_steps
EXPERIMENT: llem.Experiment = llem.run_experiment(
    make_config(),
    backend=TheirBackend(),
    meter=TheirMeter(),
    clock=TheirClock(),
    progress=count_steps,
)
llem.run_experiment(llem.config_from_mapping({"model": "gpt2"}, source="mine.json"), meter=None)
llem.run_experiment(llem.ExperimentConfig(), meter="auto", baseline_max_age_s=600)
SCHEMA: dict[str, Any] = llem.json_schema()
VERSIONS: tuple[str, str] = (llem.__version__, llem.SCHEMA_VERSION)


def run_as_ranks() -> str | None:
    """What each rank of a run does."""
    with llem.Ranks("results", timeout_s=60) as ranks:
        peers: llem.Peers = ranks
        with llem.Experiment(make_config(), peers=peers) as run:
            run.record(input_tokens=1, output_tokens=1, latency_s=0.1)
        kept: llem.StoredResult | None = ranks.keep()
    offsets: tuple[llem.ClockOffset, ...] = kept.result.aggregation.clock_offsets if kept else ()
    print(offsets, ranks.index, ranks.count)
    return None if kept is None else kept.key
