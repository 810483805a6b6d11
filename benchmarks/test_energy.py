"""
The energy of known power, by llem, Zeus and CodeCarbon: the same driver in the same few seconds.

Each error is that against the exact integral over the time from the return of what begins the
measurement to the call of what ends it. All three read the same counter where there is one, so that
they part where it fails.
"""

import contextlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import contenders
import pytest
from contenders import CONTENDERS


def _load_driver() -> Any:
    path = Path(__file__).parents[1] / "tests" / "measure" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fake_driver", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_DRIVER = _load_driver()
Curve, Driver, fake_library = _DRIVER.Curve, _DRIVER.Driver, _DRIVER.fake_library

SECOND_GPU = "GPU-10000000-0000-0000-0000-000000000000"
PASCAL = 4
NO_COUNTER = {"gpu0__nvmlDeviceGetTotalEnergyConsumption": 3}
SENSORS = {
    "instant_refresh_s": 0.1,
    "instant_window_s": 0.025,
    "legacy_refresh_s": 0.1,
    "legacy_window_s": 1.0,
    "counter_refresh_s": 0.1,
    "counter_offset_j": 1e7,
}
"""An H100: its power sensor looks at a quarter of the time."""


LATER_S = 3600
"""What happens to a GPU happens this late unless the epoch is set, as it is when all begin."""


@attrs.frozen
class Scenario:
    """
    Some GPUs, and work that one of them does.

    Attributes:
        name: What is shown of it.
        curves: Power of each GPU.
        settings: What else is said of the driver.
        environment: What the process finds set.
        worker: The GPU that does the work, and whose energy is meant.
        seconds: Length of the work.
        is_knowable: Whether anyone could tell its energy.
    """

    name: str
    curves: Sequence[Any]
    settings: Mapping[str, object] = {}
    environment: Mapping[str, str] = {}
    worker: int = 0
    seconds: float = 2.5
    is_knowable: bool = True


STEADY = Curve(base_w=300)
RAMP = Curve(kind="ramp", base_w=100, slope_w=120)
SQUARE = Curve(kind="square", base_w=80, high_w=600, period_s=0.7)
FAST = Curve(kind="square", base_w=80, high_w=600, period_s=0.03)
BURST = Curve(kind="burst", base_w=60, high_w=700, at_s=1.0, length_s=0.25)

TOGETHER = [
    Scenario("constant", [STEADY]),
    Scenario("ramp", [RAMP]),
    Scenario("square, 0.7 s", [SQUARE]),
    Scenario("square, 0.03 s", [FAST]),
    Scenario("burst of 0.25 s", [BURST]),
    Scenario("30 ms of work", [STEADY], seconds=0.03),
    Scenario("counter resets midway", [SQUARE], {"gpu0__reset_at_s": 1.25}),
    Scenario("counter not supported", [SQUARE], NO_COUNTER),
    Scenario("GPU lost midway", [STEADY], {"gpu0__lost_at_s": 1.25}, is_knowable=False),
    Scenario(
        "CUDA shows GPU-1...",
        [Curve(base_w=60), STEADY],
        environment={"CUDA_VISIBLE_DEVICES": SECOND_GPU},
        worker=1,
    ),
    Scenario(
        "CUDA shows MIG-...",
        [Curve(base_w=60), STEADY],
        {"mig0__uuid": "MIG-abc", "mig0__parent": 1},
        {"CUDA_VISIBLE_DEVICES": "MIG-abc"},
        worker=1,
    ),
]
BEFORE_VOLTA = [
    Scenario(f"Pascal, {name}", [curve], {"gpu0__architecture": PASCAL, **NO_COUNTER})
    for name, curve in {"constant": STEADY, "square, 0.7 s": SQUARE}.items()
]
"""Zeus samples these, as fast as it can: they get the machine for themselves."""


@attrs.frozen
class Run:
    """One contender in one scenario."""

    scenario: Scenario
    driver: Any
    process: Any

    def begin(self, at_s: float) -> None:
        self.driver.set(epoch_s=repr(at_s))
        # One that could not even open has ended.
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(f"{at_s}\n")
            self.process.stdin.flush()

    def outcome(self, epoch_s: float) -> dict[str, Any]:
        """What it says, with the truth of its own window and the share that it is off by."""
        output, noise = self.process.communicate(timeout=60)
        lines = [line for line in output.splitlines() if line.startswith("{")]
        assert lines, noise
        outcome = json.loads(lines[-1])
        if outcome["energy_j"] is not None:
            window = (outcome["began_s"] - epoch_s, outcome["ended_s"] - epoch_s)
            truth_j = self.scenario.curves[self.scenario.worker].energy_j(*window)
            outcome["off_j"] = outcome["energy_j"] - truth_j
            outcome["error"] = outcome["off_j"] / truth_j
        return outcome


@pytest.fixture
def launch(fake_library, tmp_path, monkeypatch):
    """Starts a contender on a driver of its own."""
    processes = []
    # CodeCarbon takes its being there for that of a GPU.
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_library.parent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def launch(scenario, name):
        file = tmp_path / f"{len(processes)}.txt"
        file.write_text(f"count {len(scenario.curves)}\nepoch_s {time.monotonic() + LATER_S}\n")
        driver = Driver(file, file.with_suffix(".shutdowns"), fake_library, 0.0)
        for gpu, curve in enumerate(scenario.curves):
            driver.set(**{f"gpu{gpu}__{key}": value for key, value in SENSORS.items()})
            driver.set(**curve.settings(gpu))
        driver.set(**scenario.settings)
        process = subprocess.Popen(
            [sys.executable, contenders.__file__, name, str(scenario.seconds)],
            env=os.environ | {"FAKE_NVML": str(file)} | scenario.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return Run(scenario, driver, process)

    yield launch
    for process in processes:
        process.kill()
        process.communicate()


def test_energy(launch, capsys):
    """A table of what each of them says; llem's error is within the bound that it states."""
    rows = {}
    for scenarios in (TOGETHER, BEFORE_VOLTA):
        runs = {(s.name, name): launch(s, name) for s in scenarios for name in CONTENDERS}
        for run in runs.values():
            run.process.stdout.readline()
        begin_s = time.monotonic() + 0.5
        for run in runs.values():
            run.begin(begin_s)
        rows |= {key: run.outcome(begin_s) for key, run in runs.items()}

    with capsys.disabled():
        print_table([*TOGETHER, *BEFORE_VOLTA], rows)
    for scenario in (*TOGETHER, *BEFORE_VOLTA):
        own = rows[scenario.name, "llem"]
        if scenario.is_knowable:
            assert abs(own["off_j"]) <= own["bound_j"], scenario.name
        else:
            assert own["energy_j"] is None, scenario.name


def print_table(scenarios, rows):
    peers = [name for name in CONTENDERS if name != "llem"]
    titles = [f"{name} {importlib.metadata.version(name)}" for name in peers]
    print(f"\n\n{'':22}{'truth':>9}  {'llem':28}" + "".join(f"{title:20}" for title in titles))
    for scenario in scenarios:
        truth_j = scenario.curves[scenario.worker].energy_j(0, scenario.seconds)
        own = rows[scenario.name, "llem"]
        bound = f"± {own['bound_j']:.0f} J" if own["energy_j"] is not None else ""
        cells = [cell(rows[scenario.name, name]) for name in peers]
        print(
            f"{scenario.name:22}{truth_j:7.1f} J  {cell(own):18}{bound:10}"
            + "".join(f"{text:20}" for text in cells)
        )
    print("\nWhat they say of it:")
    for (scenario, name), outcome in rows.items():
        for words in outcome["said"]:
            print(f"  {scenario}, {name}: {words:.150}")


def cell(outcome):
    if outcome["energy_j"] is None:
        return "none"
    return f"{outcome['energy_j']:7.1f} J {100 * outcome['error']:+6.1f} %"
