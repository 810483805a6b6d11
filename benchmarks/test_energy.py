"""
The energy of known power, by llem, Zeus and CodeCarbon: the same driver in the same few seconds.

Each error is that against the exact integral over the time from the return of what begins the
measurement to the call of what ends it. All three read the same counter where there is one: they
part where it fails.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
from contenders import CONTENDERS, Outcome, context, measure


def _load_driver() -> Any:
    path = Path(__file__).parents[1] / "tests" / "measure" / "conftest.py"
    spec = importlib.util.spec_from_file_location("fake_driver", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_DRIVER = _load_driver()
Curve, Driver, fake_library = _DRIVER.Curve, _DRIVER.Driver, _DRIVER.fake_library

SENSORS = {
    "instant_refresh_s": 0.1,
    "instant_window_s": 0.025,
    "legacy_refresh_s": 0.1,
    "legacy_window_s": 1.0,
    "counter_refresh_s": 0.1,
}
"""Those of an H100, which look at a quarter of the time."""

BEGIN_S, WORK_S = 0.04, 2.53
"""Neither edge falls on a refresh of the sensors, which would flatter whoever is quick."""

NO_COUNTER = {"gpu0__nvmlDeviceGetTotalEnergyConsumption": 3}
PASCAL = {"gpu0__architecture": 4} | NO_COUNTER
SECOND_GPU = "GPU-10000000-0000-0000-0000-000000000000"
SPLIT = {"gpu1__mig": 1, "mig0__uuid": "MIG-abc", "mig0__parent": 1}


@attrs.frozen
class Scenario:
    """
    Some GPUs, and work that the last of them does.

    Attributes:
        name: What is shown of it.
        curves: Power of each GPU.
        settings: What else is known of the driver.
        events: What happens to it meanwhile.
        cuda: What CUDA_VISIBLE_DEVICES says.
        seconds: Length of the work.
        is_knowable: Whether a meter could tell its energy.
    """

    name: str
    curves: Sequence[Any]
    settings: Mapping[str, object] = {}
    events: Mapping[str, object] = {}
    cuda: str | None = None
    seconds: float = WORK_S
    is_knowable: bool = True

    def energy_j(self, begin_s: float, end_s: float) -> float:
        return self.curves[-1].energy_j(begin_s, end_s)


IDLE = Curve(base_w=60)
STEADY = Curve(base_w=300)
RAMP = Curve(kind="ramp", base_w=100, slope_w=120)
SQUARE = Curve(kind="square", base_w=80, high_w=600, period_s=0.7)
FAST = Curve(kind="square", base_w=80, high_w=600, period_s=0.03)
BURST = Curve(kind="burst", base_w=60, high_w=700, at_s=1.0, length_s=0.25)

SCENARIOS = [
    Scenario("constant", [STEADY]),
    Scenario("ramp", [RAMP]),
    Scenario("square, 0.7 s", [SQUARE]),
    Scenario("square, 0.03 s", [FAST]),
    Scenario("burst of 0.25 s", [BURST]),
    Scenario("30 ms of work", [STEADY], seconds=0.03),
    Scenario("counter resets midway", [SQUARE], events={"gpu0__reset_at_s": 1.25}),
    Scenario("counter not supported", [SQUARE], NO_COUNTER),
    Scenario("GPU lost midway", [STEADY], events={"gpu0__lost_at_s": 1.25}, is_knowable=False),
    Scenario("CUDA shows 2nd by UUID", [IDLE, STEADY], cuda=SECOND_GPU),
    Scenario("CUDA shows MIG of 2nd", [IDLE, STEADY], SPLIT, cuda="MIG-abc"),
]
GREEDY = [
    Scenario("Pascal, constant", [STEADY], PASCAL),
    Scenario("Pascal, square, 0.7 s", [SQUARE], PASCAL),
]
"""Zeus samples these as fast as it can: each has the machine to itself."""


class Run:
    """One contender in one scenario, on a driver of its own."""

    def __init__(self, name: str, scenario: Scenario, file: Path, library: Path) -> None:
        self.scenario = scenario
        self.driver = Driver(file, file.with_suffix(".shutdowns"), library, 0.0)
        file.write_text(f"count {len(scenario.curves)}\nepoch_s {time.monotonic()}\n")
        for gpu, curve in enumerate(scenario.curves):
            self.driver.set(**{f"gpu{gpu}__{key}": value for key, value in SENSORS.items()})
            self.driver.set(**curve.settings(gpu))
        self.driver.set(**scenario.settings)
        environment = {"FAKE_NVML": str(file)}
        if scenario.cuda is not None:
            environment["CUDA_VISIBLE_DEVICES"] = scenario.cuda
        made = context()
        self.connection, theirs = made.Pipe()
        arguments = name, scenario.seconds, environment, theirs
        self.process = made.Process(target=measure, args=arguments)
        self.process.start()
        theirs.close()

    def wait(self) -> None:
        """Return once it is open. What could not be opened has its outcome by now."""
        self.connection.poll(60)

    def begin(self, epoch_s: float) -> None:
        self.driver.set(epoch_s=repr(epoch_s), **self.scenario.events)
        with contextlib.suppress(BrokenPipeError):
            self.connection.send(epoch_s + BEGIN_S)

    def outcome(self) -> Outcome:
        while not isinstance(received := self.connection.recv(), Outcome):
            pass
        return received


@pytest.fixture
def run_all(fake_library, tmp_path, monkeypatch):
    """Runs scenarios in the same few seconds, each with every contender."""
    # CodeCarbon looks for NVIDIA's program, not only for its library.
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake_library.parent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    runs: list[Run] = []

    def run_all(scenarios):
        begun = {}
        for scenario in scenarios:
            for name in CONTENDERS:
                runs.append(Run(name, scenario, tmp_path / f"{len(runs)}.txt", fake_library))
                begun[scenario.name, name] = runs[-1]
        for run in begun.values():
            run.wait()
        epoch_s = time.monotonic() + 0.5
        for run in begun.values():
            run.begin(epoch_s)
        return {key: (run.outcome(), epoch_s) for key, run in begun.items()}

    yield run_all
    for run in runs:
        run.process.kill()
        run.process.join()


def truth_j(scenario, outcome, epoch_s):
    """The exact integral over the window of an outcome. Unit: J."""
    return scenario.energy_j(outcome.began_s - epoch_s, outcome.ended_s - epoch_s)


def test_energy(run_all, capsys):
    """A table of what each of them says; llem's error is within the bound that it states."""
    rows = run_all(SCENARIOS)
    for scenario in GREEDY:
        rows |= run_all([scenario])

    with capsys.disabled():
        print_table([*SCENARIOS, *GREEDY], rows)
    for scenario in (*SCENARIOS, *GREEDY):
        outcome, epoch_s = rows[scenario.name, "llem"]
        if scenario.is_knowable:
            off_j = outcome.energy_j - truth_j(scenario, outcome, epoch_s)
            assert abs(off_j) <= outcome.bound_j, scenario.name
        else:
            assert outcome.energy_j is None, scenario.name


def print_table(scenarios, rows):
    peers = [name for name in CONTENDERS if name != "llem"]
    titles = [f"{name} {importlib.metadata.version(name)}" for name in peers]
    print("\n\nEnergy, its error over the window of each, and the bound on it that llem states.")
    print(f"{'':24}{'truth':>9}  {'llem':33}" + "".join(f"{title:24}" for title in titles))
    for scenario in scenarios:
        own, _ = rows[scenario.name, "llem"]
        bound = "" if own.bound_j is None else f"± {own.bound_j:.0f} J"
        texts = {name: cell(scenario, *rows[scenario.name, name]) for name in CONTENDERS}
        print(
            f"{scenario.name:24}{scenario.energy_j(BEGIN_S, BEGIN_S + scenario.seconds):7.1f} J  "
            f"{texts['llem']:21}{bound:12}" + "".join(f"{texts[name]:24}" for name in peers)
        )
    print("\nWhat they say of the GPU meanwhile:")
    for (scenario, name), (outcome, _) in rows.items():
        for words in filter(is_about_gpu, outcome.said):
            print(f"  {scenario}: {name}: {words:.140}")


def cell(scenario, outcome, epoch_s):
    if outcome.energy_j is None:
        return "no figure"
    share = outcome.energy_j / truth_j(scenario, outcome, epoch_s) - 1
    return f"{outcome.energy_j:7.1f} J {100 * share:+7.1f} %"


def is_about_gpu(words):
    """CodeCarbon speaks of the processor and of AMD as well."""
    return not re.search("CPU|AMD|Multiple instances", words)
