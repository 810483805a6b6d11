"""Results as something to show: figures, lines, rows."""

import csv
import io
import math
import re
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample import sample_result

from llem.auditing.check import RELATIVE_TOLERANCE
from llem.domain.efficiency import (
    ExtendedEfficiencyMetrics,
    MemoryEfficiencyMetrics,
    RequestLatencyMetrics,
)
from llem.domain.energy import (
    BaselineMethod,
    DeviceEnergy,
    EnergyBreakdown,
    MultiGPUMetrics,
    Phase,
    PhaseEnergy,
    Sensor,
    ThermalThrottleInfo,
)
from llem.domain.environment import (
    CUDAEnvironment,
    EnvironmentSnapshot,
    GPUEnvironment,
    HardwareEnvironment,
)
from llem.domain.fields import descriptions
from llem.domain.latency import LatencyStatistics, WarmupResult
from llem.domain.result import AggregationMetadata, ExperimentResult
from llem.report.figures import (
    count,
    counted,
    figure,
    number,
    number_to_bound,
    plus_minus,
    share,
    to_bound,
    with_unit,
)
from llem.report.summary import Line, details, evidence, headline
from llem.report.table import COLUMNS, error_bound_per_token_j, to_csv, to_row
from llem.testing import filled, results, small_result

# Figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0 J"),
        (0, "0 J"),
        (1.0, "1 J"),
        (999.9, "999.9 J"),
        (1000.0, "1 kJ"),
        (1234.56, "1.235 kJ"),
        (1e6, "1 MJ"),
        (1e9, "1 GJ"),
        (1e12, "1 TJ"),
        (1.5e15, "1500 TJ"),
        (0.5, "500 mJ"),
        (0.001, "1 mJ"),
        (0.000356, "356 µJ"),
        (1e-6, "1 µJ"),
        (2.5e-8, "2.5e-08 J"),
        (-0.25, "-250 mJ"),
        (-1234.0, "-1.234 kJ"),
    ],
)
def test_with_unit(value: float | None, text: str) -> None:
    """Four digits and an SI prefix; a dash for what is not known, and 0 for 0."""
    assert with_unit(value, "J") == text


def test_with_unit_needs_no_unit() -> None:
    """And leaves no blank behind."""
    assert with_unit(2.0, "") == "2"
    assert with_unit(2000.0, "") == "2 k"


@pytest.mark.parametrize(
    ("value", "bound", "text"),
    [
        (5400.0, 70.04, "5.400 kJ ± 0.070 kJ"),
        (5400.0, 9.96, "5.400 kJ ± 0.010 kJ"),
        (999.96, 0.5, "999.96 J ± 0.50 J"),
        (999.99, 25.0, "1000 J ± 25 J"),
        (123.4, 250.4, "123 J ± 250 J"),
        (0.000356, 0.000002, "356.0 µJ ± 2.0 µJ"),
        (-0.3304, 70.04, "0 J ± 70 J"),
        (-749.0, 140.0, "-749 J ± 140 J"),
        (0.0, 0.5, "0 mJ ± 500 mJ"),
        (1234.5, 0.0, "1.234 kJ ± 0 kJ"),
        (0.0, 0.0, "0 J ± 0 J"),
        (1234.5, None, "1.234 kJ"),
        (None, None, "-"),
        (None, 0.5, "-"),
    ],
)
def test_a_figure_and_its_bound(value: float | None, bound: float | None, text: str) -> None:
    """Two digits of the bound, both to the last of them but whole at least, in one unit."""
    assert plus_minus(value, bound, "J") == text
    assert to_bound(value, bound, "J") == text.partition(" ± ")[0]


@given(st.floats(-1e15, 1e15), st.floats(1e-6, 1e15))
def test_a_bound_is_of_two_digits_at_least(value: float, bound: float) -> None:
    """And neither it nor the figure is further off than rounding to that takes it."""
    figure, within = (float(number_to_bound(part, bound)) for part in (value, bound))

    assert within == pytest.approx(bound, rel=0.051)
    assert abs(figure - value) <= max(0.051 * bound, 1e-15 * abs(value))


@pytest.mark.parametrize(
    ("value", "bound", "text"),
    [
        (6.0049, 0.351, "6.00"),
        (6.0049, 25.1, "6"),
        (6.0049, 0.0, "6.005"),
        (6.0049, None, "6.005"),
        (1.0, 5e-324, "1.000000000000"),
        (6.0049, math.inf, "6.005"),
        (None, 0.351, "-"),
    ],
)
def test_a_number_to_its_bound(value: float | None, bound: float | None, text: str) -> None:
    """Without a prefix; as any number where the bound is 0, or there is none."""
    assert number_to_bound(value, bound) == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "s", "-"),
        (None, "", "-"),
        (0.0, "s", "0 s"),
        (0.0, "", "0"),
        (0.123456, "s", "0.1235 s"),
        (0.00001234, "s", "1.234e-05 s"),
        (61.25, "s", "61.25 s"),
        (999.94, "s", "999.9 s"),
        (1000.0, "s", "1000 s"),
        (1287.1975, "tokens/s", "1287 tokens/s"),
        (123456789.0, "ms", "123456789 ms"),
        (-2.5, "", "-2.5"),
        (-12345.6, "", "-12346"),
        (7, "", "7"),
    ],
)
def test_number(value: float | None, unit: str, text: str) -> None:
    """Without a prefix, and without an exponent where it is large."""
    assert number(value, unit) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0%"),
        (0.00345, "0.34%"),
        (0.04, "4%"),
        (0.125, "12%"),
        (1.0, "100%"),
        (12.345, "1200%"),
    ],
)
def test_share(value: float | None, text: str) -> None:
    """In percent, of two digits."""
    assert share(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (1000, "1,000"), (12345678, "12,345,678"), (-5, "-5")],
)
def test_count(value: int | None, text: str) -> None:
    """Commas between the thousands."""
    assert count(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 faults"), (1, "1 fault"), (2, "2 faults"), (1200, "1,200 faults")]
)
def test_counted(value: int, text: str) -> None:
    """One of them has no s; what else their plural is can be given."""
    assert counted(value, "fault") == text
    assert counted(value, "fault", "faults") == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (33, "33"),
        (1600.0, "1600"),
        (1234.56789, "1234.568"),
        (1234567.0, "1234567"),
        (-0.000123456789, "-0.0001234568"),
        (2.5e-11, "2.5e-11"),
        (math.inf, "inf"),
    ],
)
def test_figure(value: float | None, text: str) -> None:
    """Seven digits and no unit."""
    assert figure(value) == text


@given(st.floats(1e-3, 1e9), st.sampled_from([-1, 1]))
def test_figures_that_differ_look_different(value: float, sign: int) -> None:
    """By more than rounding may leave, as an audit has it."""
    other = value * (1 + 1.5 * sign * RELATIVE_TOLERANCE)

    assert figure(value) != figure(other)


# Lines

DEVICE = DeviceEnergy(
    gpu_index=0,
    uuid="GPU-a",
    name="H100",
    energy_j=1234.5,
    sensor=Sensor.NVML_TOTAL_ENERGY,
    counter_j=1234.5,
    integrated_j=1240.0,
    sample_count=1210,
    max_gap_s=0.061,
    coverage=0.9876,
    error_bound_j=24.5,
)

FULL = small_result(
    input_tokens=200,
    output_tokens=100,
    avg_energy_per_token_j=4.115,
    energy_adjusted_j=234.5,
    baseline_power_w=16.3,
    total_flops=2.62e14,
    latency_stats=LatencyStatistics(
        ttft_median_ms=31.25,
        ttft_p95_ms=40.0,
        ttft_p99_ms=1500.4,
        ttft_samples=3,
        itl_median_ms=11.5,
        itl_p95_ms=12.0,
        itl_p99_ms=13.0,
        itl_samples=30,
    ),
    extended_metrics=ExtendedEfficiencyMetrics(
        memory=MemoryEfficiencyMetrics(peak_memory_mb=512.5),
        request_latency=RequestLatencyMetrics(
            e2e_latency_median_ms=600.0,
            e2e_latency_p95_ms=650.0,
            e2e_latency_p99_ms=700.0,
            e2e_latency_samples=3,
        ),
    ),
    devices=(DEVICE,),
    reproducibility_notes="As the counter has it.",
)


def said(lines: list[Line]) -> dict[str, str]:
    """The lines by label, each of which is there once."""
    assert len({line.label for line in lines}) == len(lines)
    return {line.label: line.text for line in lines}


def test_headline_of_a_measured_result() -> None:
    """In this order, with units."""
    assert headline(FULL) == [
        Line("model", "gpt2 on pytorch"),
        Line(
            "energy",
            "1.234 kJ ± 0.025 kJ (234 J ± 24 J without the idle share, taken as exact)",
        ),
        Line("energy per token", "4.115 J ± 0.082 J (12.35 J ± 0.24 J per output token)"),
        Line("throughput", "4.898 tokens/s, in and out"),
        Line("tokens", "300 (200 in, 100 out)"),
        Line("time", "61.25 s"),
        Line("TTFT", "p50 31.25 ms, p95 40 ms, p99 1500 ms"),
        Line("ITL", "p50 11.5 ms, p95 12 ms, p99 13 ms"),
    ]


def test_headline_of_a_result_without_energy() -> None:
    """It says so, and claims no 0."""
    lines = said(headline(small_result(total_energy_j=None)))

    assert lines["energy"] == "not measured, see the warnings"
    assert "energy per token" not in lines
    assert lines["tokens"] == "300"
    assert lines["TTFT"] == lines["ITL"] == "not recorded"


def test_headline_of_an_energy_of_nothing() -> None:
    """0 J was measured, and a negative rest is shown."""
    lines = said(headline(small_result(total_energy_j=0.0, energy_adjusted_j=-0.5)))

    assert lines["energy"] == "0 J (-500 mJ without the idle share)"
    assert lines["energy per token"] == "-"


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ([24.5], "1.234 kJ ± 0.025 kJ"),
        ([24.5, 2.75], "1.234 kJ ± 0.027 kJ"),
        ([0.0], "1.234 kJ ± 0 kJ"),
        ([24.5, None], "1.234 kJ"),
        ([None, None], "1.234 kJ"),
        ([], "1.234 kJ"),
    ],
)
def test_a_total_has_a_bound_where_every_device_has_one(
    bounds: list[float | None], text: str
) -> None:
    """The sum of them: a part would say too little."""
    devices = tuple(
        attrs.evolve(DEVICE, gpu_index=i, error_bound_j=bound) for i, bound in enumerate(bounds)
    )

    assert said(headline(small_result(devices=devices)))["energy"] == text


def test_a_figure_of_a_token_has_a_bound_where_the_total_has_one() -> None:
    """The total's, shared out over the tokens that the figure is of."""
    unbounded = attrs.evolve(FULL, devices=())

    assert said(headline(unbounded))["energy per token"] == "4.115 J (12.35 J per output token)"
    assert error_bound_per_token_j(FULL, FULL.output_tokens) == 0.245
    assert error_bound_per_token_j(FULL, 0) is None
    assert error_bound_per_token_j(FULL, None) is None


def test_headline_without_a_name() -> None:
    """A configuration of another tool may not say what ran."""
    assert said(headline(small_result(effective_config={})))["model"] == "unnamed on pytorch"


def test_half_known_tokens_are_not_split() -> None:
    """Nor are latencies of which there are no samples."""
    result = small_result(output_tokens=100, latency_stats=LatencyStatistics(itl_median_ms=1.0))

    assert said(headline(result))["tokens"] == "300"
    assert said(headline(result))["ITL"] == "not recorded"


def test_details_of_a_measured_result() -> None:
    """Evidence, latencies, accuracy."""
    lines = said(details(FULL))

    assert lines == {
        "experiment": "exp-1",
        "config hash": "0123456789abcdef",
        "started": "2026-03-13 14:21:11 UTC",
        "methodology": "total",
        "warmup": "-",
        "settings": "model=gpt2",
        "idle power": "16.3 W",
        "FLOPs": "262 TFLOP",
        "end-to-end latency": "p50 600 ms, p95 650 ms, p99 700 ms",
        "peak memory": "512.5 MiB",
        "throttling": "-",
        "processes": "1 (single_process)",
        "device 0": "H100 (GPU-a): 1.234 kJ ± 0.025 kJ by nvml_total_energy, counter 1.234 kJ, "
        "integral 1.24 kJ, 1,210 samples (99% of those asked for), longest gap 61 ms",
        "time series": "none kept",
        "accuracy": "As the counter has it.",
    }


def test_details_of_a_result_with_little_in_it() -> None:
    """Dashes, and no line for what there is none of."""
    lines = said(details(small_result()))

    assert lines["FLOPs"] == lines["end-to-end latency"] == lines["peak memory"] == "-"
    assert lines["warmup"] == lines["idle power"] == lines["throttling"] == "-"
    assert not lines.keys() & {"accuracy", "GPU", "CPU", "driver", "CUDA", "device 0"}


def test_details_without_request_latencies() -> None:
    """Extended metrics that hold none."""
    lines = said(details(small_result(extended_metrics=ExtendedEfficiencyMetrics())))

    assert lines["end-to-end latency"] == lines["peak memory"] == "-"


def test_details_of_a_steady_state() -> None:
    """Its window, in s from the start."""
    result = small_result(
        measurement_methodology="steady_state", steady_state_window=(10.04, 61.25)
    )

    assert said(details(result))["methodology"] == "steady_state, 10.0 to 61.2 s of the run"


SETTLING = {"model": "gpt2", "warmup": {"convergence_detection": True}}
WARMUP = WarmupResult(
    converged=False, final_cv=0.124, iterations_completed=20, target_cv=0.05, max_prompts=20
)


@pytest.mark.parametrize(
    ("warmup", "config", "text"),
    [
        (WARMUP, {}, "20 requests, coefficient of variation 0.124"),
        (WARMUP, {"warmup": None}, "20 requests, coefficient of variation 0.124"),
        (
            WARMUP,
            SETTLING,
            "20 requests, latencies did not settle, coefficient of variation 0.124",
        ),
        (
            attrs.evolve(WARMUP, converged=True, final_cv=0.031, thermal_floor_wait_s=60.0),
            SETTLING,
            "20 requests, latencies settled, coefficient of variation 0.031, then 60 s of rest",
        ),
        (attrs.evolve(WARMUP, final_cv=None, iterations_completed=1), {}, "1 request"),
        (attrs.evolve(WARMUP, final_cv=None, iterations_completed=0), {}, "none"),
    ],
)
def test_details_of_a_warmup(warmup: WarmupResult, config: dict[str, Any], text: str) -> None:
    """How long it was, whether it settled where that was asked for, and the rest after it."""
    result = small_result(warmup_result=warmup, effective_config=config)

    assert said(details(result))["warmup"] == text


MEASURED_AT = datetime(2026, 3, 13, 13, 51, 11, tzinfo=UTC)


@pytest.mark.parametrize(
    ("power_w", "breakdown", "text"),
    [
        (
            61.7,
            EnergyBreakdown(baseline_method=BaselineMethod.FRESH, baseline_timestamp=MEASURED_AT),
            "61.7 W (fresh), measured 2026-03-13 13:51:11 UTC",
        ),
        (
            61.7,
            EnergyBreakdown(
                baseline_method=BaselineMethod.CACHED,
                baseline_timestamp=MEASURED_AT,
                baseline_cache_age_sec=1800.0,
            ),
            "61.7 W (cached), measured 2026-03-13 13:51:11 UTC, 1800 s before the run",
        ),
        (None, EnergyBreakdown(baseline_method=BaselineMethod.UNAVAILABLE), "- (unavailable)"),
    ],
)
def test_details_of_the_idle_power(
    power_w: float | None, breakdown: EnergyBreakdown, text: str
) -> None:
    """How it came about, when, and how old it was."""
    result = small_result(baseline_power_w=power_w, energy_breakdown=breakdown)

    assert said(details(result))["idle power"] == text


@pytest.mark.parametrize(
    ("info", "text"),
    [
        (ThermalThrottleInfo(), "none seen"),
        (ThermalThrottleInfo(max_temperature_c=61.0), "none seen, 61 °C at most"),
        (
            ThermalThrottleInfo(
                detected=True,
                thermal=True,
                power=True,
                sw_thermal=True,
                hw_power=True,
                throttle_duration_sec=2.5,
                max_temperature_c=83.0,
                throttle_timestamps=(12.34, 20.0),
            ),
            (
                "2.5 s by the driver's temperature limit and the power brake, "
                "first at 12.3 s of the run, 83 °C at most"
            ),
        ),
        (
            ThermalThrottleInfo(detected=True, thermal=True, hw_thermal=True),
            "0 s by the device's temperature limit",
        ),
        (
            ThermalThrottleInfo(detected=True, thermal=True, power=True),
            "0 s by a temperature limit and a power limit",
        ),
        (ThermalThrottleInfo(detected=True, throttle_duration_sec=1.0), "1 s"),
    ],
)
def test_details_of_throttling(info: ThermalThrottleInfo, text: str) -> None:
    """How long, why and when first."""
    assert said(details(small_result(thermal_throttle=info)))["throttling"] == text


@pytest.mark.parametrize(
    ("coverages", "text"),
    [
        ([1.0], "none seen"),
        ([0.95], "none seen"),
        ([0.9499], "none seen, only 94% of the samples were read"),
        ([1.0, 0.4], "none seen, only 40% of the samples were read"),
        ([None], "none seen"),
        ([], "none seen"),
    ],
)
def test_throttling_that_was_hardly_looked_for(coverages: list[float | None], text: str) -> None:
    """None seen says as much as was looked at, on the device that was seen the least."""
    devices = tuple(
        attrs.evolve(DEVICE, gpu_index=i, coverage=coverage) for i, coverage in enumerate(coverages)
    )
    result = small_result(thermal_throttle=ThermalThrottleInfo(), devices=devices)

    assert said(details(result))["throttling"] == text


@pytest.mark.parametrize(
    ("cuda", "used", "lines"),
    [
        (None, {}, {}),
        (CUDAEnvironment(version="12.4"), {}, {}),
        (
            CUDAEnvironment(version="12.4", driver_version="550.54.15"),
            {"cuda_version": "12.1", "cuda_version_source": "torch"},
            {"driver": "550.54.15, CUDA up to 12.4", "CUDA": "12.1 (torch)"},
        ),
        (
            CUDAEnvironment(driver_version="550.54.15"),
            {"cuda_version": "12.1"},
            {"driver": "550.54.15", "CUDA": "12.1"},
        ),
    ],
)
def test_details_of_the_driver(
    cuda: CUDAEnvironment | None, used: dict[str, str], lines: dict[str, str]
) -> None:
    """And of the CUDA version that the run used, with its source."""
    result = sample_result(1, 3)
    hardware = attrs.evolve(result.environment_snapshot.hardware, cuda=cuda)
    none: dict[str, Any] = {"cuda_version": None, "cuda_version_source": None}
    snapshot = attrs.evolve(result.environment_snapshot, hardware=hardware, **(none | used))

    found = said(details(attrs.evolve(result, environment_snapshot=snapshot)))

    assert {label: found[label] for label in ("driver", "CUDA") if label in found} == lines


def test_details_name_the_time_series() -> None:
    """The file that lies beside the record."""
    result = small_result(timeseries="timeseries.parquet")

    assert said(details(result))["time series"] == "timeseries.parquet"


PREFILL = PhaseEnergy(
    phase=Phase.PREFILL, energy_j=1234.5, error_bound_j=24.5, duration_s=12.5, spans=1200
)


def phases_of(*phases: PhaseEnergy) -> dict[str, str]:
    """What is said of them, by label."""
    labels = ("prefill", "decode", "between requests")
    lines = said(details(small_result(energy_breakdown=EnergyBreakdown(phases=phases))))
    return {label: text for label, text in lines.items() if label in labels}


def test_phases_with_a_figure() -> None:
    """Energy and its bound, how long, and in how many pieces."""
    decode = attrs.evolve(PREFILL, phase=Phase.DECODE, spans=1)
    other = PhaseEnergy(phase=Phase.OTHER, energy_j=0.5, error_bound_j=49.0, duration_s=0.25)

    assert phases_of(PREFILL, decode, other) == {
        "prefill": "1.234 kJ ± 0.025 kJ in 12.5 s, in 1,200 pieces",
        "decode": "1.234 kJ ± 0.025 kJ in 12.5 s, in one piece",
        "between requests": "0 J ± 49 J in 250 ms",
    }
    bare = attrs.evolve(PREFILL, error_bound_j=None, spans=0)
    assert phases_of(bare) == {"prefill": "1.234 kJ in 12.5 s"}


def test_what_is_not_of_the_whole_run_is_told_so() -> None:
    """Time of ranks that ran at once adds up, and one of them settled least."""
    result = small_result(
        warmup_result=WARMUP,
        energy_breakdown=EnergyBreakdown(phases=(PREFILL,)),
        aggregation=AggregationMetadata(method="late_aggregation", num_processes=2),
    )

    found = said(details(result))

    assert found["prefill"].endswith("in 12.5 s of all ranks together, in 1,200 pieces")
    assert found["warmup"].endswith("0.124; of the rank that settled least")


@pytest.mark.parametrize(
    ("count", "missing", "words"),
    [(1, (), ""), (3, (), ", 3 ranks"), (2, (1,), ", 2 of 3 ranks"), (1, (0, 2), ", 1 of 3 ranks")],
)
def test_the_headline_says_how_many_ranks_there_are(count, missing, words) -> None:
    """And how many there should be."""
    how = AggregationMetadata(method="m", num_processes=count, missing_processes=missing)

    assert said(headline(small_result(aggregation=how)))["model"].endswith(f" on pytorch{words}")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("phase_too_short", "no figure (phase_too_short): the sensor is too slow to tell it apart"),
        ("phases_overlap", "no figure (phases_overlap): requests ran at the same time: record"),
        ("power_not_sampled", "no figure (power_not_sampled): a device has no power readings, at"),
        ("of_another_tool", "no figure (of_another_tool): not known; in 12.5 s, in 3 pieces"),
        (None, "no figure: not known; in 12.5 s, in 3 pieces"),
    ],
)
def test_phases_without_a_figure(code: str | None, text: str) -> None:
    """None is no 0, and the reason stands in words."""
    phase = PhaseEnergy(phase=Phase.DECODE, duration_s=12.5, spans=3, code=code)

    (line,) = phases_of(phase).values()

    assert line.startswith(text)
    assert line.endswith("; in 12.5 s, in 3 pieces")


def test_every_reason_is_put_in_words() -> None:
    """Of those that a phase may have no figure for, as its docstring lists them."""
    words = descriptions(PhaseEnergy)["code"].partition(", where")[0]

    for code in re.findall(r"\w+_\w+", words):
        (line,) = phases_of(PhaseEnergy(phase=Phase.DECODE, duration_s=1.0, code=code)).values()
        assert "not known" not in line, code


def test_no_phases_are_no_lines() -> None:
    """Nor is no breakdown."""
    assert phases_of() == {}
    assert "prefill" not in said(details(small_result()))


def test_details_of_several_devices() -> None:
    """A line each, and one for each GPU of the machine, and its CPU."""
    lines = details(sample_result(2, 3))
    labels = [line.label for line in lines]

    assert [label for label in labels if label.startswith("device")] == ["device 0", "device 1"]
    assert [line.text for line in lines if line.label == "GPU"] == ["NVIDIA A100-PCIE-40GB"] * 2
    assert [line.text for line in lines if line.label == "CPU"] == ["x86_64"]
    assert said([line for line in lines if line.label == "processes"]) == {
        "processes": "2 (late_aggregation)"
    }


def test_details_of_documents_that_list_the_first_gpu_only() -> None:
    """Other writers have no list."""
    result = sample_result(1, 3)
    hardware = attrs.evolve(result.environment_snapshot.hardware, gpus=())
    cpu = attrs.evolve(hardware.cpu, model=None)
    hardware = attrs.evolve(hardware, cpu=cpu)
    snapshot = attrs.evolve(result.environment_snapshot, hardware=hardware)

    lines = said(details(attrs.evolve(result, environment_snapshot=snapshot)))

    assert lines["GPU"] == "NVIDIA A100-PCIE-40GB"
    assert lines["CPU"] == "Linux"


def test_evidence_of_a_device_that_gave_nothing() -> None:
    """Only what there is."""
    device = DeviceEnergy(gpu_index=0, uuid="u", name="n", energy_j=None, sensor=Sensor.RAPL)

    assert evidence(device) == "n (u): - by rapl, 0 samples"


@settings(max_examples=15)
@given(results())
def test_every_result_can_be_shown(result: ExperimentResult) -> None:
    """Labels and texts, all of them of one line's figures."""
    for line in [*headline(result), *details(result)]:
        assert isinstance(line.label, str)
        assert isinstance(line.text, str)
        assert line.label


# Rows


def test_columns_are_pinned() -> None:
    """Programs read them; a new one comes after the last."""
    assert list(to_row("k", small_result())) == [
        "key",
        "experiment_id",
        "measurement_config_hash",
        "start_time",
        "model",
        "backend",
        "precision",
        "batch_size",
        "n",
        "measurement_methodology",
        "total_tokens",
        "input_tokens",
        "output_tokens",
        "total_inference_time_sec",
        "avg_tokens_per_second",
        "total_energy_j",
        "avg_energy_per_token_j",
        "energy_per_output_token_j",
        "baseline_power_w",
        "energy_adjusted_j",
        "num_devices",
        "device_name",
        "num_processes",
        "total_flops",
        "flops_per_second",
        "ttft_mean_ms",
        "ttft_median_ms",
        "ttft_p95_ms",
        "ttft_p99_ms",
        "itl_mean_ms",
        "itl_median_ms",
        "itl_p95_ms",
        "itl_p99_ms",
        "measurement_warnings",
        "error_bound_j",
        "sensors",
        "min_coverage",
        "baseline_method",
        "prefill_energy_j",
        "prefill_error_bound_j",
        "decode_energy_j",
        "decode_error_bound_j",
        "e2e_latency_median_ms",
        "e2e_latency_p95_ms",
        "peak_memory_mb",
        "throttled",
        "num_missing_processes",
    ]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_row_holds_the_values() -> None:
    """As they are, units in the names."""
    result = attrs.evolve(
        FULL,
        effective_config={"model": "gpt2", "precision": "bf16", "batch_size": 8, "n": 30},
        measurement_warnings=("no_baseline: not measured: at all", "short_duration: 1 s"),
    )

    row = to_row("the_key", result)

    assert row == {
        "key": "the_key",
        "experiment_id": "exp-1",
        "measurement_config_hash": "0123456789abcdef",
        "start_time": "2026-03-13T14:21:11.145237+00:00",
        "model": "gpt2",
        "backend": "pytorch",
        "precision": "bf16",
        "batch_size": 8,
        "n": 30,
        "measurement_methodology": "total",
        "total_tokens": 300,
        "input_tokens": 200,
        "output_tokens": 100,
        "total_inference_time_sec": 61.25,
        "avg_tokens_per_second": 300 / 61.25,
        "total_energy_j": 1234.5,
        "avg_energy_per_token_j": 4.115,
        "energy_per_output_token_j": 12.345,
        "baseline_power_w": 16.3,
        "energy_adjusted_j": 234.5,
        "num_devices": 1,
        "device_name": "H100",
        "num_processes": 1,
        "total_flops": 2.62e14,
        "flops_per_second": None,
        "ttft_mean_ms": None,
        "ttft_median_ms": 31.25,
        "ttft_p95_ms": 40.0,
        "ttft_p99_ms": 1500.4,
        "itl_mean_ms": None,
        "itl_median_ms": 11.5,
        "itl_p95_ms": 12.0,
        "itl_p99_ms": 13.0,
        "measurement_warnings": "no_baseline; short_duration",
        "error_bound_j": 24.5,
        "sensors": "nvml_total_energy",
        "min_coverage": 0.9876,
        "baseline_method": None,
        "prefill_energy_j": None,
        "prefill_error_bound_j": None,
        "decode_energy_j": None,
        "decode_error_bound_j": None,
        "e2e_latency_median_ms": 600.0,
        "e2e_latency_p95_ms": 650.0,
        "peak_memory_mb": 512.5,
        "throttled": None,
        "num_missing_processes": 0,
    }


def test_a_row_of_several_devices() -> None:
    """Every sensor once, the bounds together where each has one, the least of the coverages."""
    rapl = attrs.evolve(DEVICE, gpu_index=1, sensor=Sensor.RAPL, coverage=None, error_bound_j=0.5)
    again = attrs.evolve(DEVICE, gpu_index=2, coverage=0.5)
    breakdown = EnergyBreakdown(baseline_method=BaselineMethod.CACHED)
    result = small_result(devices=(DEVICE, rapl, again), energy_breakdown=breakdown)
    unbounded = attrs.evolve(rapl, error_bound_j=None)

    row = to_row("k", result)

    assert row["error_bound_j"] == 24.5 + 0.5 + 24.5
    assert row["sensors"] == "nvml_total_energy+rapl"
    assert row["min_coverage"] == 0.5
    assert row["baseline_method"] == "cached"
    assert to_row("k", small_result(devices=(DEVICE, unbounded)))["error_bound_j"] is None


def test_a_row_of_phases() -> None:
    """Energy and bound of each, None for one without a figure."""
    decode = PhaseEnergy(phase=Phase.DECODE, duration_s=12.5, code="phase_too_short")
    breakdown = EnergyBreakdown(phases=(PREFILL, decode))

    row = to_row("k", small_result(energy_breakdown=breakdown))

    assert (row["prefill_energy_j"], row["prefill_error_bound_j"]) == (1234.5, 24.5)
    assert (row["decode_energy_j"], row["decode_error_bound_j"]) == (None, None)


@pytest.mark.parametrize("detected", [True, False])
def test_a_row_of_throttling(detected: bool) -> None:
    """None seen is False, and not the same as not known."""
    result = small_result(thermal_throttle=ThermalThrottleInfo(detected=detected))

    (row,) = rows(to_csv([("k", result)]))

    assert to_row("k", result)["throttled"] is detected
    assert row["throttled"] == str(detected)


def test_csv_is_a_header_and_a_line_a_result() -> None:
    """RFC 4180: commas, CRLF."""
    text = to_csv([("a", small_result()), ("b", FULL)])

    header, first, second, end = text.split("\r\n")
    assert header.split(",") == ["key", *COLUMNS]
    assert first.startswith("a,exp-1,0123456789abcdef,")
    assert second.startswith("b,exp-1,")
    assert end == ""


def test_devices_that_no_meter_of_ours_read() -> None:
    """Are as many as the record speaks of, and called as its environment calls the first."""
    gpus = tuple(GPUEnvironment(name=name) for name in ("A100", "H100"))
    machine = filled(HardwareEnvironment, gpu=gpus[0], gpus=())
    snapshot = filled(EnvironmentSnapshot, hardware=machine)
    of_two = attrs.evolve(snapshot, hardware=attrs.evolve(machine, gpus=gpus))
    several = MultiGPUMetrics(num_gpus=2, energy_per_gpu_j=(1.0, 2.0))

    found = [
        (row["num_devices"], row["device_name"])
        for row in (
            to_row("k", small_result(multi_gpu=multi_gpu, environment_snapshot=environment))
            for multi_gpu, environment in (
                (several, snapshot),
                (several, None),
                (None, of_two),
                (None, snapshot),
                (None, None),
            )
        )
    ]

    assert found == [(2, "A100"), (2, None), (2, "A100"), (1, "A100"), (None, None)]


def test_csv_of_nothing_is_a_header() -> None:
    """A program may read it all the same."""
    assert to_csv([]) == ",".join(["key", *COLUMNS]) + "\r\n"


def test_what_is_not_known_is_empty() -> None:
    """None is nothing, 0 is 0."""
    unknown = small_result(total_energy_j=None, effective_config={})
    nothing = small_result(total_energy_j=0.0, total_flops=0.0)

    (first, second) = rows(to_csv([("a", unknown), ("b", nothing)]))

    for column in (
        "precision",
        "total_energy_j",
        "avg_energy_per_token_j",
        "energy_adjusted_j",
        "device_name",
        "total_flops",
        "itl_p99_ms",
        "measurement_warnings",
        "error_bound_j",
        "sensors",
        "min_coverage",
        "baseline_method",
        "prefill_energy_j",
        "prefill_error_bound_j",
        "decode_energy_j",
        "decode_error_bound_j",
        "e2e_latency_median_ms",
        "e2e_latency_p95_ms",
        "peak_memory_mb",
        "throttled",
    ):
        assert first[column] == "", column
    assert (first["model"], first["num_devices"]) == ("unnamed", "")
    assert (second["total_energy_j"], second["total_flops"]) == ("0.0", "0.0")


def test_floats_are_written_in_full() -> None:
    """Reading gives the same number."""
    value = 0.1 + 0.2

    (row,) = rows(to_csv([("a", small_result(total_energy_j=value))]))

    assert float(row["total_energy_j"]) == value


@pytest.mark.parametrize("text", ['a,"b"', "two\nlines", "two\r\nlines", "naïve ☃", " blank "])
def test_texts_are_quoted(text: str) -> None:
    """Commas, quotes and newlines stay in their cell."""
    (row,) = rows(to_csv([("k", small_result(experiment_id=text))]))

    assert row["experiment_id"] == text
    assert row["backend"] == "pytorch"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_formula_is_made_a_text(start: str) -> None:
    """A spreadsheet would run it."""
    text = f'{start}HYPERLINK("x")'

    (row,) = rows(
        to_csv([(text, small_result(experiment_id=text, effective_config={"model": text}))])
    )

    assert row["key"] == row["experiment_id"] == row["model"] == f"'{text}"


def test_a_negative_number_is_a_number() -> None:
    """It begins as a formula might, and is none."""
    (row,) = rows(to_csv([("k", small_result(energy_adjusted_j=-1.5))]))

    assert row["energy_adjusted_j"] == "-1.5"


@settings(max_examples=15)
@given(results())
def test_every_result_is_a_line(result: ExperimentResult) -> None:
    """Whatever its texts hold: as many cells as columns, and the figures as they are."""
    text = to_csv([("k", result)])

    lines = list(csv.reader(io.StringIO(text, newline="")))
    assert [len(line) for line in lines] == [len(COLUMNS) + 1] * 2
    row: dict[str, Any] = dict(zip(*lines, strict=True))
    assert row["total_tokens"] == str(result.total_tokens)
    assert (row["total_energy_j"] == "") is (result.total_energy_j is None)
