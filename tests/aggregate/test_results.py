"""Late aggregation: the raw data of all processes becomes one result."""

from datetime import timedelta

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import HASH, START, aggregate, process, runs, some_processes

from llem.codec import from_json, to_json
from llem.domain.efficiency import ExtendedEfficiencyMetrics
from llem.errors import AggregationError
from llem.testing import process_results


@given(runs(), st.randoms(use_true_random=False))
def test_order_of_processes_does_not_matter(run, random) -> None:
    """Ranks come back in any order."""
    shuffled = random.sample(run, len(run))

    assert aggregate(*shuffled) == aggregate(*run)


@given(runs())
def test_every_run_makes_a_valid_result(run) -> None:
    """It is constructed, which checks it, and read back equal from its text."""
    result = aggregate(*run)

    assert from_json(to_json(result)) == result
    assert list(result.process_results) == run


@given(some_processes())
def test_one_process_is_the_identity(one) -> None:
    """Nothing is lost or added where there is nothing to aggregate."""
    result = aggregate(one)

    metrics = one.inference_metrics
    assert result.total_tokens == metrics.total_tokens
    assert result.input_tokens == metrics.input_tokens
    assert result.output_tokens == metrics.output_tokens
    assert result.total_inference_time_sec == metrics.inference_time_sec
    assert result.avg_tokens_per_second == metrics.tokens_per_second
    assert result.total_flops == one.compute_metrics.flops_total
    assert result.devices == one.devices or len(one.devices) > 1
    assert result.thermal_throttle == one.thermal_throttle
    assert (result.start_time, result.end_time) == attrs.astuple(one.timestamps)
    if not one.devices:
        assert result.total_energy_j == one.energy_metrics.total_energy_j
    if len(one.devices) == 1:
        assert result.total_energy_j == one.devices[0].energy_j


@given(process_results())
def test_one_process_is_the_identity_whatever_it_says(one) -> None:
    """Also where its figures do not go together, as long as they can be added up."""
    try:
        result = aggregate(one)
    except AggregationError as error:
        assert "is larger than" in str(error)  # noqa: PT017
        return

    metrics, own = one.inference_metrics, one.extended_metrics or ExtendedEfficiencyMetrics()
    made = result.extended_metrics
    assert result.total_tokens == metrics.total_tokens
    assert result.total_inference_time_sec == metrics.inference_time_sec
    assert result.total_flops == one.compute_metrics.flops_total
    assert result.thermal_throttle == one.thermal_throttle
    assert result.warmup_result == one.warmup_result
    assert (made.batch, made.kv_cache) == (own.batch, own.kv_cache)
    assert made.token_efficiency_index == own.token_efficiency_index
    wanted = {k: v for k, v in attrs.asdict(own.memory).items() if k != "tokens_per_gb_vram"}
    assert attrs.asdict(made.memory) | wanted == attrs.asdict(made.memory)
    if not one.per_request_latencies_ms:
        assert made.request_latency == own.request_latency
    if not one.gpu_utilisation_samples:
        assert made.gpu_utilisation == own.gpu_utilisation
    if result.latency_stats is None:
        assert made.tpot_ms == own.tpot_ms
    if not one.devices:
        assert result.total_energy_j == one.energy_metrics.total_energy_j
    if (breakdown := one.energy_breakdown) is not None:
        assert result.baseline_power_w == breakdown.baseline_power_w
        assert result.energy_breakdown.phases == breakdown.phases
        assert result.energy_breakdown.baseline_method == breakdown.baseline_method


@pytest.mark.parametrize("seconds", [0.0, 5e-324])
def test_a_rate_over_no_time_is_what_the_process_says(seconds: float) -> None:
    """A float may not hold tokens by seconds."""
    one = process(window=(0, 0))
    metrics = attrs.evolve(one.inference_metrics, inference_time_sec=seconds, tokens_per_second=7.0)

    result = aggregate(attrs.evolve(one, inference_metrics=metrics))

    assert result.avg_tokens_per_second == 7
    assert result.flops_per_second is None
    assert aggregate(one, process(1, window=(0, 0))).avg_tokens_per_second == 0


def test_one_process_says_how_it_was_aggregated() -> None:
    """Overlap and attribution are not checked, which is not that they failed."""
    metadata = aggregate(process()).aggregation

    assert metadata.method == "single_process"
    assert metadata.num_processes == 1
    assert metadata.temporal_overlap_verified is None
    assert metadata.gpu_attribution_verified is None
    assert metadata.mean_process_tokens_per_second == 2.5
    assert metadata.warnings == ()


def test_what_is_passed_in_is_kept() -> None:
    """The caller's words stand in the result."""
    result = aggregate(
        process(window=(5, 65)),
        llem_version="9.9",
        measurement_methodology="steady_state",
        steady_state_window=(5.0, 65.0),
        start_time=START,
        measurement_warnings=iter(["no_baseline: none"]),
        warmup_excluded_samples=7,
        reproducibility_notes="notes",
    )

    assert result.measurement_config_hash == HASH
    assert result.llem_version == "9.9"
    assert result.measurement_methodology == "steady_state"
    assert result.steady_state_window == (5.0, 65.0)
    assert result.start_time == START
    assert result.duration_sec == 65
    assert result.measurement_warnings == ("no_baseline: none",)
    assert result.warmup_excluded_samples == 7
    assert result.reproducibility_notes == "notes"


def test_a_run_spans_all_windows() -> None:
    """From the first start to the last end."""
    result = aggregate(process(0, window=(5, 65)), process(1, window=(3, 60)))

    assert result.start_time == START + timedelta(seconds=3)
    assert result.end_time == START + timedelta(seconds=65)


def test_tokens_and_flops_are_summed() -> None:
    """Over processes, and ratios are of the sums."""
    result = aggregate(
        process(0, tokens=(100, 50), flops=3e12), process(1, tokens=(20, 10), flops=1e12)
    )

    assert (result.input_tokens, result.output_tokens, result.total_tokens) == (120, 60, 180)
    assert result.avg_tokens_per_second == 180 / 60
    assert result.avg_energy_per_token_j == 200 / 180
    assert result.total_flops == 4e12
    assert result.flops_per_input_token == 4e12 / 120
    assert result.flops_per_output_token == 4e12 / 60
    assert result.flops_per_second == 4e12 / 60
    assert result.aggregation.mean_process_tokens_per_second == (2.5 + 0.5) / 2


@pytest.mark.parametrize("index", [0, 1])
def test_tokens_are_unknown_where_one_process_does_not_know_them(index: int) -> None:
    """The total is known all the same."""
    known, unknown = process(1 - index), process(index, tokens=(None, 50))

    result = aggregate(known, unknown)

    assert result.input_tokens is None
    assert result.output_tokens == 100
    assert result.total_tokens == 300
    assert result.flops_per_input_token is None


@pytest.mark.parametrize("index", [0, 1])
def test_flops_are_unknown_where_one_process_does_not_know_them(index: int) -> None:
    """A sum without one of its terms is no sum."""
    result = aggregate(process(1 - index), process(index, flops=None))

    assert result.total_flops is None
    assert result.flops_per_second is None
    assert result.flops_per_output_token is None


def test_ratios_per_nothing_are_unknown() -> None:
    """A run without tokens and time divides by neither."""
    result = aggregate(process(tokens=(0, 0), window=(0, 0)))

    assert result.avg_energy_per_token_j is None
    assert result.flops_per_output_token is None
    assert result.flops_per_second is None
    assert result.avg_tokens_per_second == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("experiment_id", "exp/2"),
        ("model_name", "gpt3"),
        ("effective_config", {"model": "gpt2", "n": 1}),
        ("backend", "vllm"),
    ],
)
@pytest.mark.parametrize("index", [0, 2])
def test_processes_of_several_runs_are_refused(field: str, value, index: int) -> None:
    """The field that differs is named, and between whom."""
    run = [process(i, **({field: value} if i == index else {})) for i in range(3)]

    with pytest.raises(AggregationError, match=f"^{field} differs between process 0 and") as raised:
        aggregate(*run)

    assert f"and {index or 1}: they are not of one run" in str(raised.value)


def test_mixed_backends_are_taken_by_name_only() -> None:
    """Each process keeps its own."""
    run = [process(0), process(1, backend="vllm")]

    result = aggregate(*run, allow_mixed_backends=True)

    assert result.backend == "pytorch"
    assert [one.backend for one in result.process_results] == ["pytorch", "vllm"]
    with pytest.raises(AggregationError, match="experiment_id"):
        aggregate(process(0), process(1, experiment_id="exp/2"), allow_mixed_backends=True)


def test_a_process_twice_is_refused() -> None:
    """Its tokens would count twice."""
    with pytest.raises(AggregationError, match=r"process_index must be distinct, got \[0, 1, 1\]"):
        aggregate(process(1), process(0), process(1))


def test_no_process_is_refused() -> None:
    """Nothing makes no result."""
    with pytest.raises(AggregationError, match="no process"):
        aggregate()
