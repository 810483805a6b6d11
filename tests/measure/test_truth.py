"""Known power comes back as energy, within the error bound that the evidence states."""

import contextlib
import itertools
import math
import time

import attrs
import pynvml
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from llem.domain.energy import DeviceEnergy, Sensor
from llem.measure import NvmlMeter, device_energies
from llem.measure.nvml import PART_TIME, RUNNING_MEAN, Timing
from llem.protocols import Device, Edge, Samples

from .conftest import Curve, Driver

ROUNDING_J = 1e-3
"""What counters in mJ, powers in mW and floats lose."""

LIMIT_W = 700.0
KINDS = ("constant", "ramp", "square", "burst", "step")

NO_COUNTER = {"nvmlDeviceGetTotalEnergyConsumption": 3}
COUNTER = {"counter_refresh_s": 0.1}
LEGACY = {"field": 3}
AVERAGE = {"field": 3, "nvmlDeviceGetPowerUsage": 3}


@attrs.frozen
class Model:
    """
    A GPU as the driver shows it.

    Attributes:
        settings: What the driver is told about it.
        capability: Its compute capability.
    """

    settings: dict[str, object]
    capability: tuple[int, int] = (9, 0)


MODELS = {
    "exact counter": Model({}),
    "counter": Model({**COUNTER, "instant_refresh_s": 0.1, "instant_window_s": 0.025}),
    "counter alone": Model({**COUNTER, **AVERAGE, "field_average": 3}),
    "exact power": Model(NO_COUNTER),
    "part of the time": Model({**NO_COUNTER, "instant_refresh_s": 0.1, "instant_window_s": 0.025}),
    "all of the time": Model(
        {**NO_COUNTER, "instant_refresh_s": 0.1, "instant_window_s": 0.1}, (8, 6)
    ),
    "Volta": Model(
        {**NO_COUNTER, **LEGACY, "legacy_refresh_s": 0.02, "legacy_window_s": 0.01}, (7, 0)
    ),
    "legacy on Hopper": Model(
        {**NO_COUNTER, **LEGACY, "legacy_refresh_s": 0.1, "legacy_window_s": 1}
    ),
    "average": Model({**NO_COUNTER, **AVERAGE, "average_refresh_s": 0.1}),
}
"""Sensors as good as can be, and as they are."""

SILENT = Model({**NO_COUNTER, **AVERAGE, "field_average": 3})
"""A GPU that tells nothing."""


@st.composite
def curves(draw: st.DrawFn, kind: str) -> Curve:
    """Power below the limit, of a device that is on. What happens does so in the first 0.6 s."""
    watts = st.floats(1, LIMIT_W) | st.sampled_from([1.0, 60.0, LIMIT_W])
    at_s = draw(st.floats(0, 0.6))
    match kind:
        case "constant":
            return Curve(kind="constant", base_w=draw(watts))
        case "ramp":
            return Curve(kind="ramp", base_w=350, slope_w=draw(st.floats(-120, 120)))
        case "square":
            changing = {"period_s": 0.1, "duty": draw(st.floats(0.05, 0.95))}
        case "burst":
            changing = {"at_s": at_s, "length_s": 0.05}
        case "step":
            changing = {"at_s": at_s}
    return Curve(kind=kind, base_w=draw(watts), high_w=draw(watts), **changing)


def assert_within_its_bound(energy: DeviceEnergy, truth_j: float) -> None:
    assert energy.energy_j is not None
    assert energy.error_bound_j is not None
    assert abs(energy.energy_j - truth_j) <= energy.error_bound_j + ROUNDING_J


@pytest.fixture
def gpus(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """One GPU of each model, and two that tell nothing."""
    models = [*MODELS.values(), SILENT, SILENT]
    driver.set(count=len(models))
    for gpu, model in enumerate(models):
        driver.set(**{f"gpu{gpu}__{name}": value for name, value in model.settings.items()})
    monkeypatch.setattr(
        pynvml,
        "nvmlDeviceGetCudaComputeCapability",
        lambda handle: models[pynvml.nvmlDeviceGetIndex(handle)].capability,
    )
    return driver


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=5,
    suppress_health_check=list(HealthCheck),
    # Shrinking an example would take minutes.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(data=st.data())
def test_known_power_comes_back(gpus: Driver, kind: str, data: st.DataObject) -> None:
    """From the driver to the evidence, whatever the sensor; and no figure where none was read."""
    driven = {name: data.draw(curves(kind), label=name) for name in MODELS}
    for gpu, curve in enumerate(driven.values()):
        gpus.set(**curve.settings(gpu))
    late = len(driven) + 1
    gpus.set(**{f"gpu{late}__field": 0})
    with contextlib.closing(NvmlMeter()) as meter:
        # The last one falls silent before the first sample.
        gpus.set(**{f"gpu{late}__field": 999})
        epoch_s = time.monotonic()
        gpus.set(epoch_s=epoch_s)
        meter.start()
        begin = meter.mark()
        time.sleep(data.draw(st.floats(0.02, 0.5), label="duration_s"))
        end = meter.mark()
        samples = meter.stop()
    energies = device_energies(meter.devices, samples, begin, end)

    assert [note.partition(":")[0] for note in samples.notes] == [meter.devices[late].uuid]
    for gpu, (name, curve) in enumerate(driven.items()):
        if name == "counter alone" and begin.counters_j[gpu] == end.counters_j[gpu]:
            # It has not been refreshed: nothing was read.
            assert energies[gpu].energy_j is None
            continue
        truth_j = curve.energy_j(begin.time_s - epoch_s, end.time_s - epoch_s)
        assert_within_its_bound(energies[gpu], truth_j)
    for silent in energies[len(driven) :]:
        assert (silent.energy_j, silent.error_bound_j) == (None, None)
        assert "energy_not_measured" in silent.codes


TIMINGS = [PART_TIME, RUNNING_MEAN, Timing(0.1, 0.1), Timing(0.02, 0.01)]


def reading_w(curve: Curve, timing: Timing, time_s: float) -> float:
    """What a sensor that is timed so tells at *time_s*. Unit: W."""
    read_s = math.floor(time_s / timing.refresh_s) * timing.refresh_s
    return max(curve.energy_j(read_s - timing.window_s, read_s) / timing.window_s, 0.0)


@st.composite
def any_curves(draw: st.DrawFn) -> Curve:
    """Power that changes in steps, as often as it likes, or in the sensor's own beat."""
    if draw(st.booleans()):
        return draw(curves("square"))
    steps_s = draw(st.lists(st.sampled_from([0.01, 0.05, 0.1, 0.37]), min_size=1, max_size=20))
    watts = st.sampled_from([1.0, 60.0, 350.0, LIMIT_W])
    times_s = itertools.accumulate(steps_s)
    return Curve(kind="points", points=tuple((time_s, draw(watts)) for time_s in times_s))


@settings(max_examples=200)
@given(
    curve=any_curves(),
    timing=st.sampled_from(TIMINGS),
    period_s=st.sampled_from([0.01, 0.02, 0.1, 0.4]),
    late_s=st.lists(st.sampled_from([0.0, 0.001, 0.03, 0.3]), max_size=10),
    begin_s=st.floats(0.5, 1.5),
    duration_s=st.floats(0.01, 2.0),
)
@example(
    curve=Curve(kind="square", base_w=50, high_w=700, period_s=0.1, duty=0.54),
    timing=Timing(0.02, 0.01),
    period_s=0.1,
    late_s=[],
    begin_s=0.99,
    duration_s=1.5,
)
def test_bound_of_the_integral(
    curve: Curve,
    timing: Timing,
    period_s: float,
    late_s: list[float],
    begin_s: float,
    duration_s: float,
) -> None:
    """It holds for any power, however rarely and late it is sampled."""
    end_s = begin_s + duration_s
    times_s, late = [begin_s - 0.005], itertools.chain(late_s, itertools.repeat(0.0))
    while times_s[-1] < end_s:
        times_s.append(min(times_s[-1] + period_s + next(late), end_s + 0.001))
    device = Device(
        index=0,
        uuid="GPU-0",
        name="Simulated",
        sensor=Sensor.NVML_POWER_INSTANT,
        period_s=period_s,
        limit_w=LIMIT_W,
        refresh_s=timing.refresh_s,
        window_s=timing.window_s,
    )
    samples = Samples(
        times_s=times_s,
        power_w=[reading_w(curve, timing, time_s) for time_s in times_s],
        temperature_c=[math.nan] * len(times_s),
    )
    edges = (Edge(time_s=time_s, counters_j=(None,)) for time_s in (begin_s, end_s))
    (energy,) = device_energies([device], samples, *edges)

    assert_within_its_bound(energy, curve.energy_j(begin_s, end_s))
