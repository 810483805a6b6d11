"""
The seams: what a store, an energy meter, an inference backend and a clock must do.

Any class with these methods is one; inheriting is optional. Parameters are positional-only, so that
an implementation may name them as it likes.
"""

import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import attrs
from attrs.converters import optional

from llem.domain.conditions import Conditions
from llem.domain.config import ExperimentConfig
from llem.domain.energy import Sensor
from llem.domain.fields import Record, up_to
from llem.domain.latency import MeasurementMode
from llem.domain.process import RawProcessResult
from llem.domain.result import ExperimentResult
from llem.errors import ResultValidationError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa


@attrs.frozen(kw_only=True)
class StoredResult(os.PathLike[str]):
    """
    A result that is kept.

    Attributes:
        key: Name of the result in its store.
        path: Path of its ``result.json``. Empty where the store has no files.
        result: The record as it was kept.
    """

    key: str
    path: str
    result: ExperimentResult = attrs.field(repr=False)

    def __fspath__(self) -> str:
        return self.path


Key = str | os.PathLike[str]
"""What names a result: a `StoredResult`, its key, or the path of its folder or ``result.json``."""


@runtime_checkable
class Store(Protocol):
    """Keeps results. What was put is never changed, mixed or overwritten."""

    @abstractmethod
    def put(
        self,
        result: ExperimentResult,
        /,
        *,
        timeseries: "pa.Table | str | os.PathLike[str] | None" = None,
    ) -> StoredResult:
        """Keep *result*, with *timeseries* beside it, under a key of its own."""
        ...

    @abstractmethod
    def get(self, key: Key, /) -> ExperimentResult:
        """The result named *key*."""
        ...

    @abstractmethod
    def timeseries(self, key: Key, /) -> "pa.Table | None":
        """The time series of the result named *key*. None: it has none."""
        ...

    @abstractmethod
    def __iter__(self) -> Iterator[str]:
        """The keys, oldest start first."""
        ...

    @abstractmethod
    def __len__(self) -> int:
        """How many results are kept."""
        ...

    @abstractmethod
    def __contains__(self, key: object, /) -> bool:
        """Whether *key* names a result that is kept."""
        ...


@attrs.frozen(kw_only=True)
class Device:
    """
    One device that a meter reads.

    Attributes:
        index: Its ``gpu_index`` in the time series, from 0 without holes.
        uuid: Identity: the UUID of a GPU, the name of a RAPL domain.
        name: Product name.
        sensor: Where its power, or its counter, is read.
        scope: What the sensor covers, such as gpu, module, package or memory.
        period_s: Time between two samples of power. Unit: s. None: power is not sampled.
        parent_of_mig: Whether the figure is that of a GPU whose MIG instances share it.
        limit_w: Power limit in force, more than which it does not draw for long. Unit: W.
            None: not known.
        refresh_s: Time between two readings that its power sensor makes. Unit: s.
        window_s: Time that each of these is the mean of: less than *refresh_s* where the sensor
            looks at a part of the time only. Unit: s. None: all of the time between two.
        counter_refresh_s: Time between two updates of its energy counter. Unit: s.
        counter_range_j: Where its energy counter wraps around to 0. Unit: J. None: it does not.
    """

    index: int
    uuid: str
    name: str
    sensor: Sensor
    scope: str = "gpu"
    period_s: float | None = None
    parent_of_mig: bool = False
    limit_w: float | None = None
    refresh_s: float = 0.0
    window_s: float | None = None
    counter_refresh_s: float = 0.0
    counter_range_j: float | None = None


@attrs.frozen(kw_only=True)
class Edge:
    """
    One edge of a measured window.

    Attributes:
        time_s: Monotonic time of the edge. Unit: s.
        counters_j: Energy counter of each device at the edge. Unit: J. None: it has none, or did
            not answer.
        spread_s: Time that reading them took, with *time_s* in its middle. Unit: s.
    """

    time_s: float
    counters_j: tuple[float | None, ...]
    spread_s: float = 0.0


def _array(values: Any, dtype: str) -> Any:
    """A read-only array. numpy loads when the first samples are made."""
    import numpy as np

    made = np.asarray(values, dtype=dtype).view()
    made.flags.writeable = False
    return made


def _times(values: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    times: npt.NDArray[np.float64] = _array(values, "f8")
    return times


def _table(values: "npt.ArrayLike", dtype: str) -> Any:
    made = _array(values, dtype)
    return made.reshape(len(made), -1 if made.size else 0) if made.ndim == 1 else made


def _readings(values: "npt.ArrayLike") -> "npt.NDArray[np.float32]":
    readings: npt.NDArray[np.float32] = _table(values, "f4")
    return readings


def _counters(values: "npt.ArrayLike") -> "npt.NDArray[np.float64]":
    counters: npt.NDArray[np.float64] = _table(values, "f8")
    return counters


def _masks(values: "npt.ArrayLike") -> "npt.NDArray[np.uint32]":
    masks: npt.NDArray[np.uint32] = _table(values, "u4")
    return masks


_NOTHING: Any = ()


@attrs.frozen(kw_only=True, eq=False)
class Samples:
    """
    What a meter sampled: one row a device at each tick, in tick order.

    Every column but *times_s* is of shape (ticks, devices). Whatever numpy makes an array of is
    taken. Power and temperature are as narrow as a sidecar keeps them, so that the same energy can
    be computed from it.

    Attributes:
        times_s: Monotonic time of each tick, shared by all devices. Unit: s. Shape: (ticks,).
        power_w: Power. Unit: W. NaN: not read.
        temperature_c: Temperature. Unit: °C. NaN: not read.
        counter_j: Energy counter as it stood. Unit: J. NaN: not read. None: none was sampled.
        utilisation_pct: Share of time with a kernel running. Unit: %. NaN: not read. None: of none.
        memory_utilisation_pct: Share of time with memory traffic. Unit: %. As above.
        memory_mb: Device memory in use. Unit: MiB. As above.
        clock_event_reasons: Why clocks are below their greatest: NVML's bit mask. 0 where it was
            not read. None: not known of any.
        reading_age_s: Age of each power reading by the sensor's own timestamp. Unit: s. NaN: the
            sensor gives none.
        stride: Only every *stride*-th tick was kept, to stay within bounds.
        notes: What went wrong with the sampling.

    Raises:
        ResultValidationError: The columns differ in shape.
    """

    times_s: "npt.NDArray[np.float64]" = attrs.field(default=_NOTHING, converter=_times)
    power_w: "npt.NDArray[np.float32]" = attrs.field(default=_NOTHING, converter=_readings)
    temperature_c: "npt.NDArray[np.float32]" = attrs.field(default=_NOTHING, converter=_readings)
    counter_j: "npt.NDArray[np.float64] | None" = attrs.field(
        default=None, converter=optional(_counters)
    )
    utilisation_pct: "npt.NDArray[np.float32] | None" = attrs.field(
        default=None, converter=optional(_readings)
    )
    memory_utilisation_pct: "npt.NDArray[np.float32] | None" = attrs.field(
        default=None, converter=optional(_readings)
    )
    memory_mb: "npt.NDArray[np.float32] | None" = attrs.field(
        default=None, converter=optional(_readings)
    )
    clock_event_reasons: "npt.NDArray[np.uint32] | None" = attrs.field(
        default=None, converter=optional(_masks)
    )
    reading_age_s: "npt.NDArray[np.float32] | None" = attrs.field(
        default=None, converter=optional(_readings)
    )
    stride: int = 1
    notes: tuple[str, ...] = ()

    def __attrs_post_init__(self) -> None:
        if self.times_s.ndim != 1:
            raise ResultValidationError(
                f"times_s must be of shape (ticks,), got {self.times_s.shape}", field="times_s"
            )
        shape = len(self.times_s), self.power_w.shape[-1] if self.power_w.ndim else 0
        for name in COLUMNS_OF_SAMPLES:
            column = getattr(self, name)
            if column is not None and column.shape != shape:
                raise ResultValidationError(
                    f"{name} must be of shape (ticks, devices) = {shape}, got {column.shape}",
                    field=name,
                )

    def between(self, first: int, last: int) -> "Samples":
        """The ticks from *first* to before *last*, and all else as it is."""
        kept = slice(first, last)
        columns: dict[str, Any] = {name: getattr(self, name) for name in COLUMNS_OF_SAMPLES}
        for name, column in columns.items():
            columns[name] = None if column is None else column[kept]
        return attrs.evolve(self, times_s=self.times_s[kept], **columns)


COLUMNS_OF_SAMPLES = tuple(
    field.name
    for field in attrs.fields(Samples)
    if field.name not in {"times_s", "stride", "notes"}
)


@runtime_checkable
class EnergyMeter(Protocol):
    """
    Reads the energy of devices.

    `start` begins sampling, `mark` reads the counters at an edge, `stop` ends sampling and gives
    what was sampled. Energy is computed from these afterwards, the same way for every meter.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What the configuration calls it, such as nvml."""
        ...

    @property
    @abstractmethod
    def devices(self) -> tuple[Device, ...]:
        """The devices, by index."""
        ...

    @abstractmethod
    def start(self) -> None:
        """Begin sampling. Raises `MeterError`."""
        ...

    @abstractmethod
    def mark(self) -> Edge:
        """Read the time and every counter, now."""
        ...

    @abstractmethod
    def stop(self) -> Samples:
        """End sampling, after a sample later than the last edge, and give all samples."""
        ...

    @abstractmethod
    def close(self) -> None:
        """Let go of the hardware. Safe to call twice."""
        ...


MAX_TOKENS, MAX_LATENCY_S, MAX_FLOPS = 10**12, 10**9, 10**30
"""No batch has more; sums of what is below stay finite and within 64 bits."""


@attrs.frozen(kw_only=True, weakref_slot=False)
class BatchOutput(Record):
    """
    What a backend says of one batch of requests.

    Attributes:
        input_tokens: Prompt tokens of each request, padding excluded.
        output_tokens: Generated tokens of each request, padding excluded.
        latency_s: From the start of the batch to its last token. Unit: s.
        ttft_s: From the start of the batch to its first token. Unit: s. None: not streamed.
        itl_s: Times between the tokens after the first. Unit: s.
        padding_tokens: Input tokens that were padding.
        flops: Floating-point operations. None: not known.
        mode: How *ttft_s* and *itl_s* were taken.
        ended_s: Monotonic time of the last token. Unit: s. None: about when it is recorded.

    Raises:
        ResultValidationError: A value is negative, not finite, or no number, or the values do not
            go together.
    """

    input_tokens: tuple[int, ...] = up_to(MAX_TOKENS)
    output_tokens: tuple[int, ...] = up_to(MAX_TOKENS)
    latency_s: float = up_to(MAX_LATENCY_S)
    ttft_s: float | None = up_to(MAX_LATENCY_S, None)
    itl_s: tuple[float, ...] = up_to(MAX_LATENCY_S, ())
    padding_tokens: int = up_to(MAX_TOKENS, 0)
    flops: float | None = up_to(MAX_FLOPS, None)
    mode: MeasurementMode = MeasurementMode.TRUE_STREAMING
    ended_s: float | None = None

    def check_whole(self) -> None:
        """Refuse a first token after the last one, and token counts of different requests."""
        if not self.input_tokens or len(self.input_tokens) != len(self.output_tokens):
            raise ResultValidationError(
                f"input_tokens and output_tokens must have one count for each request, got "
                f"{len(self.input_tokens)} and {len(self.output_tokens)}",
                field="output_tokens",
            )
        if self.ttft_s is not None and self.ttft_s > self.latency_s:
            raise ResultValidationError(
                f"ttft_s must not exceed latency_s = {self.latency_s}, got {self.ttft_s}",
                field="ttft_s",
            )


@attrs.frozen(kw_only=True)
class BackendInfo:
    """
    What a backend says of itself once its model is loaded.

    Attributes:
        version: Version of the backend.
        device: Where the model runs, such as cuda:0.
        device_name: Product name of that device.
        device_uuids: UUIDs of the GPUs it runs on. Empty: none.
        parameters: Parameters of the model. None: not known.
        flops_method: How the operations of a batch are counted, such as flop_counter.
        model_memory_mb: Device memory in use by the loaded model. Unit: MiB. None: not known.
        total_memory_mb: Memory of the device. Unit: MiB. None: not known.
    """

    version: str | None = None
    device: str
    device_name: str
    device_uuids: tuple[str, ...] = ()
    parameters: int | None = None
    flops_method: str | None = None
    model_memory_mb: float | None = None
    total_memory_mb: float | None = None


Prompts = Sequence[Any]
"""Prompts in whatever form the backend that made them wants them."""


@runtime_checkable
class InferenceBackend(Protocol):
    """Runs a model. Raises `BackendError` for whatever keeps it from doing so."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the configuration calls it, such as pytorch."""
        ...

    @abstractmethod
    def load(self, config: ExperimentConfig, /) -> BackendInfo:
        """Load the model that *config* names, onto its device."""
        ...

    @abstractmethod
    def prompts(self) -> Prompts:
        """The prompts of the loaded configuration, ``config.n`` of them."""
        ...

    @abstractmethod
    def generate(self, batch: Prompts, /) -> BatchOutput:
        """Run *batch* to its last token."""
        ...

    @abstractmethod
    def synchronize(self) -> None:
        """Return once all work on the device is done."""
        ...

    @abstractmethod
    def peak_memory_mb(self) -> float | None:
        """Most device memory in use since loading. Unit: MiB. None: not known."""
        ...

    @abstractmethod
    def close(self) -> None:
        """Let go of the model. Safe to call twice."""
        ...


@runtime_checkable
class Clock(Protocol):
    """Tells the time."""

    @abstractmethod
    def monotonic(self) -> float:
        """Monotonic time. Unit: s."""
        ...

    @abstractmethod
    def now(self) -> datetime:
        """The time as an aware datetime in UTC."""
        ...

    @abstractmethod
    def sleep(self, seconds: float, /) -> None:
        """Let *seconds* pass."""
        ...


@attrs.frozen(kw_only=True)
class ClockComparison:
    """
    How the clock of one process goes beside that of process 0.

    Attributes:
        offset_s: Monotonic time of process 0 less that of this process at the same moment. Unit: s.
        error_s: Bound on the error of *offset_s*. Unit: s. None: the two have one clock.
        anchor: A moment as the wall clock of process 0 has it, and as its monotonic clock has it.
            Unit of the latter: s.
    """

    offset_s: float = 0.0
    error_s: float | None = None
    anchor: tuple[datetime, float]


@runtime_checkable
class Peers(Protocol):
    """
    The processes that measure one run together, as one of them sees them.

    Each of them makes the same calls in the same order.
    """

    @property
    @abstractmethod
    def index(self) -> int:
        """Which of them this process is, from 0."""
        ...

    @property
    @abstractmethod
    def count(self) -> int:
        """How many they are."""
        ...

    @abstractmethod
    def exchange(self, stage: str, value: Any, /) -> tuple[Any, ...]:
        """
        Return once every process is at *stage*, with the *value* of each, by index.

        Values are what JSON can hold. Raises `IncompleteRunError` where one does not come, or has
        failed: it names them.
        """
        ...

    @abstractmethod
    def compare_clocks(self, clock: "Clock", /) -> ClockComparison:
        """How *clock* goes beside that of process 0."""
        ...

    @abstractmethod
    def align(self, device: str | None, /) -> None:
        """
        Return at the same moment in every process, all of which are known to be there.

        *device* is the torch device that is to be aligned as well. None: the hosts alone.
        """
        ...

    @abstractmethod
    def hand_over(
        self,
        process: RawProcessResult,
        conditions: Conditions,
        timeseries: "pa.Table | None",
        /,
    ) -> None:
        """Keep what this process measured until it is aggregated."""
        ...

    @abstractmethod
    def undisturbed(self) -> AbstractContextManager[None]:
        """While entered, orders to end wait: nothing that was measured is given up for them."""
        ...

    @abstractmethod
    def fail(self, reason: str, /) -> None:
        """Tell the others that this process gives up, and why."""
        ...
