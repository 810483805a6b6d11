"""
A meter in a process of its own, used as its documentation says.

``python contenders.py NAME SECONDS`` says ready once NAME is open, reads the monotonic time to
begin at, measures SECONDS of doing nothing, and says what came of it as one line of JSON.
"""

import contextlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any


class Llem:
    def __init__(self) -> None:
        from llem.measure import NvmlMeter

        self.meter = NvmlMeter()

    def begin(self) -> None:
        self.meter.start()
        self.edge = self.meter.mark()

    def end(self) -> dict[str, Any]:
        from llem.measure import device_energies

        edge = self.meter.mark()
        found = device_energies(self.meter.devices, self.meter.stop(), self.edge, edge)
        self.meter.close()
        codes = [code for device in found for code in device.codes]
        if any(device.energy_j is None for device in found):
            return {"energy_j": None, "said": codes}
        bounds_j = [device.error_bound_j for device in found]
        return {
            "energy_j": sum(device.energy_j for device in found),
            "bound_j": None if None in bounds_j else sum(bounds_j),
            "said": codes,
        }


class Zeus:
    def __init__(self) -> None:
        from zeus.monitor import ZeusMonitor

        self.monitor = ZeusMonitor()

    def begin(self) -> None:
        # There is no CUDA here to wait for.
        self.monitor.begin_window("work", sync_execution=False)

    def end(self) -> dict[str, Any]:
        measurement = self.monitor.end_window("work", sync_execution=False)
        return {"energy_j": measurement.total_energy}


class CodeCarbon:
    def __init__(self) -> None:
        from codecarbon import OfflineEmissionsTracker

        self.tracker = OfflineEmissionsTracker(
            country_iso_code="USA",
            measure_power_secs=1,
            output_methods=[],
            log_level="warning",
            tracking_mode="machine",
        )
        # Looks for the hardware, which start() would do first.
        self.tracker.get_detected_hardware()

    def begin(self) -> None:
        self.tracker.start()

    def end(self) -> dict[str, Any]:
        self.tracker.stop()
        return {"energy_j": self.tracker.final_emissions_data.gpu_energy * 3.6e6}


CONTENDERS = {"llem": Llem, "zeus": Zeus, "codecarbon": CodeCarbon}


class _Heard(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


@contextlib.contextmanager
def listening(name: str) -> Iterator[list[str]]:
    """What is logged or warned of meanwhile."""
    heard = _Heard()
    logging.getLogger(name).addHandler(heard)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield heard.said
    heard.said += [str(warning.message) for warning in caught]


def measure(name: str, seconds: float) -> dict[str, Any]:
    """What came of it, and from when to when the work went on."""
    outcome: dict[str, Any] = {"energy_j": None, "said": []}
    with listening(name) as said:
        try:
            contender = CONTENDERS[name]()
            print("ready", flush=True)
            begin_s = float(sys.stdin.readline())
            time.sleep(max(begin_s - time.monotonic(), 0))
            contender.begin()
            outcome["began_s"] = time.monotonic()
            time.sleep(seconds)
            outcome["ended_s"] = time.monotonic()
            outcome |= contender.end()
        except Exception as error:  # noqa: BLE001  # that too is an outcome
            said.append(f"{type(error).__name__}: {error}")
    outcome["said"] += [" ".join(words.split()) for words in dict.fromkeys(said)]
    return outcome


if __name__ == "__main__":
    print("\n" + json.dumps(measure(sys.argv[1], float(sys.argv[2]))), flush=True)
