"""The meter of one run: what is asked of it, and what becomes of its answers."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from llem import measure
from llem.domain.conditions import Evidence, GpuProcess, RequestSpan
from llem.domain.config import BaselineConfig, EnergyConfig
from llem.domain.energy import BaselineMethod, EnergyBreakdown, Sensor
from llem.domain.environment import EnvironmentSnapshot
from llem.errors import ConfigError, MeterError
from llem.experiment.gpus import holds_context
from llem.protocols import Clock, Device, Edge, EnergyMeter

if TYPE_CHECKING:
    import pyarrow as pa


class Metering:
    """
    The meter of one run. Once it measures, whatever goes wrong with it takes no request along.

    Attributes:
        devices: What it meters.
        not_measured: Why no energy was measured.
        foreign: Processes of others on the GPUs, at the start and at the end.
        idle: The idle power of the devices. None: not looked for.

    Args:
        wanted: The meter: one of the caller's own, "auto" for what a configuration asks for, or
            None.
        clock: What tells the time.
    """

    def __init__(self, wanted: EnergyMeter | Literal["auto"] | None, clock: Clock) -> None:
        if isinstance(wanted, str) and wanted != "auto":
            raise ConfigError(
                f"meter must be auto, None or a meter, got {wanted!r}: the configuration names one "
                "by energy.backend"
            )
        self._wanted = wanted
        self._clock = clock
        self._meter: EnergyMeter | None = None
        self._had_context: bool | None = None
        self.devices: tuple[Device, ...] = ()
        self.not_measured: tuple[str, ...] = ()
        self.foreign: dict[Literal["start", "end"], tuple[GpuProcess, ...]] = {}
        self.idle: measure.IdlePower | None = None

    @property
    def is_on(self) -> bool:
        """Whether there is a meter."""
        return self._meter is not None

    def open(self, config: EnergyConfig, uuids: Sequence[str] | None) -> None:
        """
        Open the meter.

        Args:
            config: Which one is asked for.
            uuids: The GPUs that the run uses. None: those that CUDA shows to this process.

        Raises:
            MeterError: One that is asked for by name does not answer.
        """
        if isinstance(self._wanted, str):
            self._meter, self.not_measured = measure.open_meter(config, uuids=uuids)
        elif self._wanted is None:
            self.not_measured = ("meter is None: no meter was asked for",)
        else:
            self._meter = self._wanted

    @property
    def gpus(self) -> tuple[str, ...]:
        """The GPUs that are metered, where others could be. Empty: a meter of the caller's own."""
        if not isinstance(self._wanted, str):
            return ()
        return tuple(one.uuid for one in self.devices if one.sensor is not Sensor.RAPL)

    def narrow(self, config: EnergyConfig, uuids: Sequence[str]) -> None:
        """
        Meter the GPUs *uuids* alone, which are some of those that are.

        Raises:
            MeterError: They do not answer any more.
        """
        self.close()
        self.open(config, uuids)
        self.find_devices()

    def find_devices(self) -> None:
        """
        See what the meter reads.

        Raises:
            MeterError: Its devices cannot be told apart.
        """
        if self._meter is not None:
            self.devices = measure.checked_devices(self._meter)

    def close(self) -> None:
        """Whatever goes wrong with that takes no result along, nor hides what went wrong before."""
        if self._meter is not None:
            with contextlib.suppress(Exception):
                self._meter.close()

    def look_around(self, when: Literal["start", "end"], kin: frozenset[int]) -> None:
        """
        Who else is on the GPUs, and at the start whether anyone, the engine included, is.

        Args:
            when: At which end of the run this is.
            kin: Process IDs of the run beside those of this process and its relatives.
        """
        uuids = [device.uuid for device in self.devices]
        processes = measure.gpu_processes(uuids) if uuids else None
        own, holds = measure.own_processes() | kin, holds_context()
        self.foreign[when] = measure.foreign(processes or (), own, holds)
        if when == "start":
            self._had_context = holds or measure.context_held(processes, own)

    def measure_idle(
        self,
        config: BaselineConfig,
        *,
        cache: "measure.BaselineCache | None",
        max_age_s: float,
        environment: EnvironmentSnapshot | None,
    ) -> None:
        """
        Measure the idle power of the devices, as *config* says, or take one that was kept.

        Raises:
            MeterError: The meter cannot sample.
        """
        if self._meter is None or not config.enabled or config.duration_seconds <= 0:
            return
        cuda = environment.hardware.cuda if environment else None
        self.idle = measure.idle_power(
            self._meter,
            config.duration_seconds,
            self._clock,
            # What others drew meanwhile is not idle power to any other run.
            cache=None if self.foreign["start"] else cache,
            max_age_s=max_age_s,
            driver=cuda.driver_version if cuda else None,
            had_context=self._had_context,
        )

    def start(self) -> None:
        """Begin to sample."""
        if self._meter is not None:
            self._meter.start()

    def begin(self) -> Edge:
        """
        The first edge of the window.

        Raises:
            MeterError: The meter gives none.
        """
        if self._meter is None:
            return Edge(time_s=self._clock.monotonic(), counters_j=())
        return measure.checked_mark(self._meter, self.devices, self._clock)

    def end(self, begin: Edge) -> Edge:
        """The last edge of what began at *begin*, without counters where the meter fails."""
        now_s = self._clock.monotonic()
        with self._sparing_requests():
            if self._meter is not None:
                end = measure.checked_mark(self._meter, self.devices, self._clock)
                if end.time_s > begin.time_s:
                    return end
                raise MeterError(
                    f"the time of the meter {self._meter.name} stood still or ran back, from "
                    f"{begin.time_s!r} to {end.time_s!r}"
                )
        return Edge(time_s=max(now_s, begin.time_s), counters_j=())

    def evidence(
        self, begin: Edge, end: Edge, *, origin_s: float, requests: Sequence[RequestSpan]
    ) -> "tuple[Evidence, pa.Table | None]":
        """
        What the samples of the window come to, and the samples themselves.

        Args:
            begin: First edge of the window.
            end: Last edge.
            origin_s: Monotonic time of the start of the run. Unit: s.
            requests: Requests that were served.
        """
        with self._sparing_requests():
            if self._meter is not None and end.counters_j:
                samples = measure.checked_samples(self._meter, self.devices)
                evidence = measure.gather_evidence(
                    self.devices, samples, begin, end, origin_s=origin_s, requests=requests
                )
                table = measure.annotate(
                    measure.to_table(self.devices, samples, origin_s=origin_s),
                    self.devices,
                    samples,
                    begin,
                    end,
                    origin_s=origin_s,
                    requests=requests,
                )
                return evidence, table
        return Evidence(), None

    def idle_by_device(self) -> dict[str, float]:
        """The idle power of each device that it is known of. Unit: W."""
        if self.idle is None:
            return {}
        powers = zip(self.devices, self.idle.baseline.power_w, strict=True)
        return {device.uuid: power_w for device, power_w in powers if power_w is not None}

    def breakdown(self, evidence: Evidence) -> EnergyBreakdown | None:
        """How the energy of *evidence* divides. None: it is not known of every device."""
        devices = evidence.devices
        if not devices or any(device.energy_j is None for device in devices):
            return None
        idle = self.idle
        if idle is None or idle.method is BaselineMethod.UNAVAILABLE:
            return EnergyBreakdown(
                baseline_method=BaselineMethod.UNAVAILABLE, phases=evidence.phases
            )
        return EnergyBreakdown(
            baseline_power_w=idle.baseline.total_w,
            baseline_method=idle.method,
            baseline_timestamp=idle.baseline.timestamp,
            baseline_cache_age_sec=idle.cache_age_s,
            phases=evidence.phases,
        )

    @contextlib.contextmanager
    def _sparing_requests(self) -> Iterator[None]:
        """They were measured all the same, and are not given up for a sensor, whoever's."""
        try:
            yield
        except MeterError as error:
            self.not_measured = (measure.plain_text(error),)
        except Exception as error:  # noqa: BLE001  # a meter may be anyone's
            said = measure.plain_text(error)
            self.not_measured = (f"the meter failed: {type(error).__name__}: {said}",)
