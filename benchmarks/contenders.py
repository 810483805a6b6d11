"""Meters of energy, each used as its documentation says, and each in a process of its own."""

import logging
import multiprocessing
import os
import time
import warnings
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

import attrs

HEAVY = ["pandas", "sklearn.metrics", "rapidfuzz", "requests", "httpx", "pydantic", "pytest"]
"""What the contenders load that has nothing to do with a GPU."""


@attrs.frozen(kw_only=True)
class Outcome:
    """
    What came of one measurement.

    Attributes:
        began_s: Monotonic time when the work began, right after measuring did. Unit: s.
        ended_s: The same of its end, right before measuring ended. Unit: s.
        energy_j: The energy that the contender gives. Unit: J. None: it gives none.
        bound_j: The bound on its error that the contender gives. Unit: J.
        said: What it says of it, in whatever way.
    """

    began_s: float = 0.0
    ended_s: float = 0.0
    energy_j: float | None = None
    bound_j: float | None = None
    said: tuple[str, ...] = ()


class Llem:
    """`llem.measure.NvmlMeter`, which finds the GPUs that CUDA shows."""

    def __init__(self) -> None:
        from llem.measure import NvmlMeter, device_energies

        self.energies = device_energies
        self.meter = NvmlMeter()

    def begin(self) -> None:
        self.meter.start()
        self.edge = self.meter.mark()

    def end(self) -> Outcome:
        edge = self.meter.mark()
        found = self.energies(self.meter.devices, self.meter.stop(), self.edge, edge)
        self.meter.close()
        said = tuple(code for device in found for code in device.codes)
        if any(device.energy_j is None for device in found):
            return Outcome(said=said)
        return Outcome(
            energy_j=sum(device.energy_j for device in found),
            bound_j=sum(device.error_bound_j for device in found),
            said=said,
        )


class Zeus:
    """`zeus.monitor.ZeusMonitor`, which finds the GPUs that CUDA shows."""

    def __init__(self) -> None:
        from zeus.monitor import ZeusMonitor

        self.monitor = ZeusMonitor()

    def begin(self) -> None:
        # There is no CUDA here whose work could be waited for.
        self.monitor.begin_window("work", sync_execution=False)

    def end(self) -> Outcome:
        measurement = self.monitor.end_window("work", sync_execution=False)
        return Outcome(energy_j=measurement.total_energy)


class CodeCarbon:
    """`codecarbon.OfflineEmissionsTracker`, which finds the GPUs that CUDA shows."""

    def __init__(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        self.tracker = OfflineEmissionsTracker(
            country_iso_code="USA",
            measure_power_secs=1,
            output_methods=[],
            tracking_mode="machine",
            log_level="warning",
        )
        # start() would look for the hardware first, for a second or more.
        self.tracker.get_detected_hardware()

    def begin(self) -> None:
        self.tracker.start()

    def end(self) -> Outcome:
        self.tracker.stop()
        return Outcome(energy_j=self.tracker.final_emissions_data.gpu_energy * 3.6e6)


CONTENDERS = {"llem": Llem, "zeus": Zeus, "codecarbon": CodeCarbon}


def context() -> ForkServerContext:
    """Where contenders run: in forks of a process that has loaded nothing but what is heavy."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(HEAVY)
    return made


def measure(name: str, seconds: float, environment: Mapping[str, str], parent: Connection) -> None:
    """
    Measure *seconds* of doing nothing.

    Sends something once *name* is open, receives the monotonic time to begin at, and sends the
    outcome.
    """
    os.environ.update(environment)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    heard = _Heard()
    logging.getLogger(name).addHandler(heard)
    warnings.showwarning = lambda message, *_: heard.words.append(str(message))
    outcome = Outcome()
    try:
        contender = CONTENDERS[name]()
        parent.send("open")
        time.sleep(max(parent.recv() - time.monotonic(), 0))
        contender.begin()
        began_s = time.monotonic()
        time.sleep(seconds)
        ended_s = time.monotonic()
        outcome = attrs.evolve(contender.end(), began_s=began_s, ended_s=ended_s)
    except Exception as error:  # noqa: BLE001  # that too is an outcome
        heard.words.append(f"{type(error).__name__}: {error}")
    said = (*outcome.said, *(" ".join(words.split()) for words in dict.fromkeys(heard.words)))
    parent.send(attrs.evolve(outcome, said=said))


class _Heard(logging.Handler):
    """Keeps what is logged as a warning or worse."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.words.append(record.getMessage())
