"""One process of a run: what is measured inside a ``with`` block."""

import contextlib
import importlib.metadata
import math
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from llem import measure
from llem.codec import to_mapping
from llem.domain.conditions import Conditions, Evidence
from llem.domain.config import ExperimentConfig
from llem.domain.environment import EnvironmentSnapshot
from llem.domain.fields import check_for
from llem.domain.latency import MeasurementMode, WarmupResult
from llem.domain.process import RawProcessResult, Timestamps
from llem.domain.result import ExperimentResult
from llem.errors import (
    BackendError,
    ConfigError,
    IncompleteRunError,
    LlemError,
    ResultValidationError,
)
from llem.experiment.conclusion import conclude
from llem.experiment.dating import Dates
from llem.experiment.gpus import gpus_in_use
from llem.experiment.gpus import synchronize as synchronize_torch
from llem.experiment.joint import Introduction, agree, introduce, reason_of, share
from llem.experiment.metering import Metering
from llem.protocols import (
    BackendInfo,
    BatchOutput,
    Clock,
    Edge,
    EnergyMeter,
    Peers,
)
from llem.recording import Recorder, each, listed, process_result

if TYPE_CHECKING:
    import pyarrow as pa

_CHECK_MEMORY = check_for(float | None, {"minimum": 0})


class Progress(Protocol):
    """Is told what goes on, for whoever waits."""

    def __call__(self, stage: str, done: float, total: float | None, /) -> None:
        """*done* of *total* steps of *stage* are done; None: nobody knows how many there are."""


def llem_version() -> str:
    """Version of the package."""
    return importlib.metadata.version("llem")


class Experiment:
    """
    Measures what runs inside its ``with`` block.

    >>> with Experiment(config) as run:  # doctest: +SKIP
    ...     for batch in batches:
    ...         out = my_engine.generate(batch)
    ...         run.record(input_tokens=out.n_in, output_tokens=out.n_out, latency_s=out.seconds)
    >>> kept = ResultStore("results").put(run.result, timeseries=run.timeseries)  # doctest: +SKIP

    Entering takes the environment, opens the meter and, where one answers, measures the idle power.
    The measured window is the block itself, by the wall clock, or what of it comes after `warm_up`,
    or what runs inside `window`. Leaving ends it and makes the result; on an exception there is
    none.

    Args:
        config: What is run. Its ``backend`` names the engine.
        info: What the engine says of itself, such as the GPUs it runs on, which are then the ones
            that are metered. None: all GPUs that this process can see are; of several processes,
            those that torch uses in each, or else each machine's are divided among its processes.
        meter: What reads the energy: one of your own, "auto" for what the configuration asks for,
            or None.
        synchronize: Returns once all work on the devices is done. None: torch's, where it is used.
            Where it fails, so did what was run: that is a `BackendError`, and there is no result.
        peak_memory_mb: Gives the most device memory in use. Unit: MiB. Where it fails, or gives
            what no memory can be, that is not known.
        experiment_id: Unique name of the run. None: model, time and a random part.
        baseline_max_age_s: Use an idle power that was measured on this machine, of these devices,
            at most so long ago. Unit: s. 0: measure it.
        baseline_folder: Where measured idle powers are kept. None: the user's cache folder.
        clock: What tells the time.
        peers: The processes that measure this run together, such as `Ranks`. What this one
            measures is handed over to them, `Ranks.keep` makes the result of all, and neither
            `result` nor `timeseries` is to be had here. None: it is alone.
        progress: Is told what goes on.
    """

    def __init__(
        self,
        config: ExperimentConfig,
        *,
        info: BackendInfo | None = None,
        meter: EnergyMeter | Literal["auto"] | None = "auto",
        synchronize: Callable[[], None] | None = None,
        peak_memory_mb: Callable[[], float | None] | None = None,
        experiment_id: str | None = None,
        baseline_max_age_s: float = 0.0,
        baseline_folder: Path | None = None,
        clock: Clock | None = None,
        peers: Peers | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.config = config
        self._info = info
        self._synchronize = synchronize or synchronize_torch
        self._peak_memory_mb = peak_memory_mb or (lambda: None)
        self._experiment_id = experiment_id
        self._clock = clock or measure.SystemClock()
        self._peers = peers
        self._introduced: Introduction | None = None
        self._progress: Progress = progress or (lambda *_: None)
        self._recorder = Recorder()
        self._metering = Metering(meter, self._clock)
        if not 0 <= baseline_max_age_s < math.inf:
            raise ConfigError(
                f"baseline_max_age_s must be seconds, 0 or more, got {baseline_max_age_s}"
            )
        self._baseline_max_age_s = baseline_max_age_s
        folder = baseline_folder or measure.default_cache_folder()
        self._baseline_cache = None if folder is None else measure.BaselineCache(folder)
        self._warmup: WarmupResult | None = None
        self._environment: EnvironmentSnapshot | None = None
        self._dates = Dates(self._clock)
        self._start_s = self._dates.now_s
        self._begin = Edge(time_s=self._start_s, counters_j=())
        self._end: Edge | None = None
        self._has_window = False
        self._excluded = 0
        self._stage: Literal["new", "measuring", "over"] = "new"
        self._made: tuple[ExperimentResult, pa.Table | None] | None = None

    def __enter__(self) -> Self:
        if self._stage != "new":
            raise IncompleteRunError("an Experiment measures once: make another for another run")
        self._stage = "over"
        with self._failure_told():
            # The meter goes first: while it is open the driver stays awake for whoever asks it.
            self._metering.open(self.config.energy, self._own_gpus())
            try:
                self._prepare()
            except BaseException:
                self._metering.close()
                raise
        self._stage = "measuring"
        return self

    def _prepare(self) -> None:
        """All that comes before the window."""
        self._metering.find_devices()
        if self._peers is not None:
            self._meet_peers(self._peers)
        self._progress("environment", 0, None)
        self._environment = measure.snapshot(clock=self._clock)
        self._look_around("start")
        if self._peers is not None:
            # Nobody may still be loading a model while another one measures idle power.
            self._peers.exchange("idle", None)
        if self._metering.is_on and self.config.baseline.enabled:
            self._progress("baseline", 0, self.config.baseline.duration_seconds)
        self._metering.measure_idle(
            self.config.baseline,
            cache=self._baseline_cache,
            max_age_s=self._baseline_max_age_s,
            environment=self._environment,
        )
        self._metering.start()
        self._begin_window()

    def _own_gpus(self) -> tuple[str, ...] | None:
        """The GPUs that this process uses. None: nobody says, so that it is all that it sees."""
        if self._info is not None:
            return self._info.device_uuids
        return gpus_in_use() if self._peers is not None and self._peers.count > 1 else None

    def _meet_peers(self, peers: Peers) -> None:
        self._experiment_id = agree(
            peers,
            experiment_id=self._experiment_id
            or _new_experiment_id(self.config.model, self._dates.now),
            config=to_mapping(self.config),
            llem_version=llem_version(),
        )
        shared = share(peers, () if self._own_gpus() is not None else self._metering.gpus)
        if shared is not None:
            self._metering.narrow(self.config.energy, shared)
        self._introduced = introduce(
            peers, self._metering.devices, measure.own_processes(), self._info
        )
        self._metering.devices = self._introduced.devices

    @contextlib.contextmanager
    def _failure_told(self) -> Iterator[None]:
        """Have the peers not wait for one that has given up."""
        try:
            yield
        except BaseException as error:
            if self._peers is not None:
                self._peers.fail(reason_of(error))
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._stage != "measuring":
            raise IncompleteRunError("an Experiment is left once, after it is entered: use `with`")
        self._stage = "over"
        try:
            if kind is None and (self._end is not None or not self._has_window):
                with self._failure_told():
                    self._finish()
            elif self._peers is not None:
                self._peers.fail(reason_of(error) if error else "its window did not end well")
        finally:
            self._metering.close()

    def warm_up(self, step: Callable[[], float]) -> WarmupResult | None:
        """
        Run *step* as the configuration's warmup says, and begin the measured window anew after it.

        Args:
            step: Runs one request and returns its latency. Unit: s.

        Returns:
            What it came to, or None where the configuration has the warmup off.

        Raises:
            IncompleteRunError: The ``with`` block is not yet entered, or left, or has had a window.
        """
        if self._stage != "measuring" or self._has_window:
            raise IncompleteRunError("warm_up() belongs inside the with block, before window()")
        config = self.config.warmup
        if not config.enabled:
            return None
        self._progress("warmup", 0, None)
        self._warmup = measure.warm_up(
            step, config, clock=self._clock, wait_thermal_floor=self._metering.is_on
        )
        self._excluded = self._warmup.iterations_completed
        self._recorder = Recorder()
        start_s = self._start_s
        self._begin_window()
        if self._warmup.converged:
            self._start_s = start_s
        return self._warmup

    @contextlib.contextmanager
    def window(self) -> Iterator[None]:
        """
        Measure what runs inside of it, and nothing else of the ``with`` block.

        Requests that were recorded before do not count, and later ones are refused. Where it ends
        with an exception there is no result.

        Raises:
            IncompleteRunError: The ``with`` block is not yet entered, or left, or has had a window.
        """
        if self._stage != "measuring" or self._has_window:
            raise IncompleteRunError("window() belongs inside the with block, once")
        self._has_window = True
        self._excluded += len(self._recorder.latencies_ms)
        self._recorder = Recorder()
        start_s = self._start_s
        self._begin_window()
        self._start_s = start_s
        yield
        self._end = self._end_window()

    def record(
        self,
        *,
        input_tokens: int | Iterable[int],
        output_tokens: int | Iterable[int],
        latency_s: float,
        ttft_s: float | None = None,
        itl_s: Iterable[float] | None = None,
        padding_tokens: int = 0,
        flops: float | None = None,
        mode: MeasurementMode = MeasurementMode.TRUE_STREAMING,
        ended_s: float | None = None,
    ) -> None:
        """
        Note one request, or one batch of requests that ran together.

        Args:
            input_tokens: Prompt tokens, padding excluded; of a batch, those of each request.
            output_tokens: Generated tokens; of a batch, those of each request.
            latency_s: From sending the prompt to the last token. Unit: s.
            ttft_s: From sending the prompt to the first token. Unit: s. None: not known.
            itl_s: Times between the tokens after the first. Unit: s. None: not known.
            padding_tokens: Input tokens that were padding.
            flops: Floating-point operations. None: not known.
            mode: How *ttft_s* and *itl_s* were taken.
            ended_s: ``time.monotonic()`` of the last token, within the measured window. Unit: s.
                None: now. It tells when prefill and decode were, whose energy is then told apart.

        Raises:
            ResultValidationError: A value is negative, not finite, or no number, or the values do
                not go together. Nothing of the request is kept.
            IncompleteRunError: The ``with`` block is not yet entered, or left, or its window is
                over.
        """
        if self._end is not None:
            raise IncompleteRunError("record() belongs inside the window of the Experiment")
        if self._stage != "measuring":
            raise IncompleteRunError("record() belongs inside the with block of the Experiment")
        now_s = self._clock.monotonic()
        output = BatchOutput(
            input_tokens=each(input_tokens),
            output_tokens=each(output_tokens),
            latency_s=latency_s,
            ttft_s=ttft_s,
            itl_s=() if itl_s is None else listed(itl_s),
            padding_tokens=padding_tokens,
            flops=flops,
            mode=mode,
            ended_s=now_s if ended_s is None else ended_s,
        )
        if ended_s is not None and not self._begin.time_s <= ended_s <= now_s:
            raise ResultValidationError(
                f"ended_s must be from {self._begin.time_s}, when the measured window began, to "
                f"now, {now_s}, got {ended_s}: give time.monotonic() of the last token",
                field="ended_s",
            )
        self._recorder.add(output)

    @property
    def result(self) -> ExperimentResult:
        """The result, once the ``with`` block is left. Raises `IncompleteRunError` before."""
        return self._whole()[0]

    @property
    def timeseries(self) -> "pa.Table | None":
        """The samples of all devices. None: no energy was sampled. Raises `IncompleteRunError`."""
        return self._whole()[1]

    def _whole(self) -> "tuple[ExperimentResult, pa.Table | None]":
        if self._made is None and self._peers is not None:
            raise IncompleteRunError(
                "the result of several processes is made once all have handed over what they "
                "measured: see what keeps it, such as Ranks.keep"
            )
        if self._made is None:
            raise IncompleteRunError(
                "the run has no result: it is still going on, or ended with an exception"
            )
        return self._made

    def _look_around(self, when: Literal["start", "end"]) -> None:
        kin = self._introduced.processes if self._introduced else frozenset[int]()
        self._metering.look_around(when, kin)

    def _begin_window(self) -> None:
        self._finish_work()
        if self._peers is not None:
            self._peers.exchange("begin", None)
            self._dates.compare(self._peers, anew=True)
            self._peers.align(self._introduced.align_on if self._introduced else None)
        self._begin = self._metering.begin()
        self._start_s = self._begin.time_s

    def _end_window(self) -> Edge:
        self._finish_work()
        return self._metering.end(self._begin)

    def _finish_work(self) -> None:
        """
        Return once all work on the devices is done.

        Errors of kernels surface no sooner: what was recorded of them was not done.

        Raises:
            BackendError: They did not do it.
        """
        try:
            self._synchronize()
        except LlemError:
            raise
        except Exception as error:
            raise BackendError(
                f"the devices did not finish their work: {type(error).__name__}: {error}; the "
                "requests before it may have failed too, so there is no result: run them again"
            ) from error

    def _finish(self) -> None:
        if self._peers is not None:
            with self._peers.undisturbed():
                self._finish_beside(self._peers)
            return
        process, conditions, timeseries = self._part(self._end or self._end_window())
        made = conclude([(process, conditions)], llem_version=llem_version())
        self._made = made, timeseries

    def _finish_beside(self, peers: Peers) -> None:
        end = self._end or self._end_window()
        try:
            peers.exchange("end", None)
            self._dates.compare(peers)
        finally:
            # Whatever has become of the others, what was measured here is kept.
            peers.hand_over(*self._part(end))

    def _part(self, end: Edge) -> "tuple[RawProcessResult, Conditions, pa.Table | None]":
        """What this process measured."""
        evidence, timeseries = self._metering.evidence(
            self._begin, end, origin_s=self._start_s, requests=self._recorder.spans
        )
        self._look_around("end")
        return self._process(end, evidence), self._conditions(end, evidence), timeseries

    def _conditions(self, end: Edge, evidence: Evidence) -> Conditions:
        metering, idle = self._metering, self._metering.idle
        begin_s = self._begin.time_s - self._start_s
        window_s = begin_s, begin_s + (end.time_s - self._begin.time_s)
        idle_w = metering.idle_by_device()
        return Conditions(
            start_time=self._dates.at(self._start_s),
            window_s=window_s,
            measurement_methodology=measure.derive_measurement_methodology(
                self._warmup, None if self._end is None else window_s
            ),
            warmup_excluded=self._excluded,
            environment_snapshot=self._environment,
            not_measured=metering.not_measured,
            temperatures=evidence.temperatures,
            throttles=evidence.throttles,
            sampler_notes=evidence.notes,
            foreign_at_start=metering.foreign["start"],
            foreign_at_end=metering.foreign["end"],
            idle_uuids=tuple(idle_w),
            idle_power_w=tuple(idle_w.values()),
            baseline_had_context=idle.baseline.had_context if idle else None,
            baseline_notes=idle.notes if idle else (),
            node=self._introduced.node if self._introduced else measure.identity()[0],
            clock_offset_s=self._dates.ahead_s,
            clock_error_s=self._dates.beside.error_s,
        )

    def _process(self, end: Edge, evidence: Evidence) -> RawProcessResult:
        start = self._dates.at(self._start_s)
        return process_result(
            self._recorder,
            experiment_id=self._experiment_id or _new_experiment_id(self.config.model, start),
            process_index=0 if self._peers is None else self._peers.index,
            config=self.config,
            info=self._info,
            window=Timestamps(
                start=self._dates.at(self._begin.time_s), end=self._dates.at(end.time_s)
            ),
            seconds=end.time_s - self._begin.time_s,
            evidence=evidence,
            breakdown=self._metering.breakdown(evidence),
            thermal_throttle=measure.throttle_info(evidence.throttles, evidence.temperatures),
            warmup=self._warmup,
            peak_memory_mb=self._peak_mb(),
        )

    def _peak_mb(self) -> float | None:
        """What the engine says of its memory, which is nothing to give up a run for."""
        try:
            peak_mb: float | None = _CHECK_MEMORY(self._peak_memory_mb(), "peak_memory_mb")
        except Exception:  # noqa: BLE001  # the engine may be anyone's
            return None
        return peak_mb


def _new_experiment_id(model: str, start: datetime) -> str:
    return f"{model}_{start:%Y%m%d_%H%M%S}_{secrets.token_hex(4)}"
