"""Latencies over the raw values of all processes."""

import math
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ranks import MILLISECONDS, aggregate, process

from llem.aggregate import latency_statistics, percentile
from llem.domain.efficiency import ExtendedEfficiencyMetrics, RequestLatencyMetrics
from llem.domain.latency import LatencyMeasurements


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.sampled_from([0, 0.5, 0.95, 0.99, 1])
)
def test_percentile_is_numpys(values, share: float) -> None:
    """Type 7, linear between closest ranks."""
    numpy = pytest.importorskip("numpy")

    assert percentile(sorted(values), share) == pytest.approx(
        float(numpy.percentile(values, 100 * share)), rel=1e-12, abs=1e-300
    )


def expected(numpy: Any, name: str, values: list[float]) -> dict[str, float]:
    """What numpy says of *values*; nothing where there are none."""
    percents = {"median": 50, "p95": 95, "p99": 99}
    if not values:
        return {}
    return {
        f"{name}_mean_ms": math.fsum(values) / len(values),
        f"{name}_min_ms": min(values),
        f"{name}_max_ms": max(values),
        f"{name}_samples": len(values),
        **{f"{name}_{key}_ms": float(numpy.percentile(values, p)) for key, p in percents.items()},
    }


def known(record: Any) -> dict[str, float]:
    """The fields of *record* that say something."""
    fields = attrs.asdict(record)
    return {key: x for key, x in fields.items() if x is not None and (x or isinstance(x, float))}


@given(st.lists(st.tuples(MILLISECONDS, MILLISECONDS, MILLISECONDS), min_size=1, max_size=4))
def test_statistics_are_those_of_the_concatenated_values(parts) -> None:
    """Not means of the processes' own statistics."""
    numpy = pytest.importorskip("numpy")
    run = [
        process(
            i,
            latencies=LatencyMeasurements(ttft_ms=ttft, itl_full_ms=itl),
            per_request_latencies_ms=whole,
        )
        for i, (ttft, itl, whole) in enumerate(parts)
    ]

    result = aggregate(*run)

    ttft, itl, whole = ([x for part in parts for x in part[column]] for column in range(3))
    wanted = expected(numpy, "ttft", ttft) | expected(numpy, "itl", itl)
    if wanted:
        assert known(result.latency_stats) == pytest.approx(wanted, rel=1e-12, abs=1e-300)
    else:
        assert result.latency_stats is None
    wanted = expected(numpy, "e2e_latency", whole)
    wanted = {key: wanted[key] for key in wanted if not key.endswith(("min_ms", "max_ms"))}
    assert known(result.extended_metrics.request_latency) == pytest.approx(
        wanted, rel=1e-12, abs=1e-300
    )


def test_latencies_of_a_process_without_any_are_left_out() -> None:
    """One process streamed, the other did not."""
    measured = LatencyMeasurements(ttft_ms=(1.0, 3.0), itl_full_ms=(2.0, 4.0, 9.0))

    stats = aggregate(process(0, latencies=measured), process(1)).latency_stats

    assert (stats.ttft_min_ms, stats.ttft_mean_ms, stats.ttft_max_ms) == (1, 2, 3)
    assert (stats.itl_min_ms, stats.itl_mean_ms, stats.itl_median_ms, stats.itl_max_ms) == (
        2,
        5,
        4,
        9,
    )
    assert (stats.ttft_samples, stats.itl_samples) == (2, 3)


def test_no_latencies_are_no_statistics() -> None:
    """Nothing measured, or only one of the two kinds."""
    assert latency_statistics([]) is None
    assert latency_statistics([None, LatencyMeasurements()]) is None
    only_first = latency_statistics([LatencyMeasurements(ttft_ms=(5.0,))])
    assert only_first is not None
    assert (only_first.ttft_p99_ms, only_first.itl_mean_ms, only_first.itl_samples) == (5, None, 0)


def test_time_per_output_token_is_the_mean_interval() -> None:
    """Over the intervals of all processes."""
    run = [
        process(0, latencies=LatencyMeasurements(itl_full_ms=(1.0, 2.0))),
        process(1, latencies=LatencyMeasurements(itl_full_ms=(9.0,))),
    ]

    assert aggregate(*run).extended_metrics.tpot_ms == 4
    assert aggregate(process()).extended_metrics.tpot_ms is None


def summed_up(mean: float | None, samples: int, tpot: float | None = None) -> dict[str, Any]:
    latency = RequestLatencyMetrics(
        e2e_latency_mean_ms=mean, e2e_latency_p99_ms=mean, e2e_latency_samples=samples
    )
    metrics = ExtendedEfficiencyMetrics(request_latency=latency, tpot_ms=tpot)
    return {"extended_metrics": metrics}


def test_means_of_requests_are_weighted_by_their_number() -> None:
    """Where there is nothing else; their percentiles are lost."""
    run = [process(0, **summed_up(10.0, 3)), process(1, **summed_up(50.0, 1)), process(2)]

    found = aggregate(*run).extended_metrics.request_latency

    assert found == RequestLatencyMetrics(e2e_latency_mean_ms=20.0, e2e_latency_samples=4)
    alone = aggregate(run[0]).extended_metrics
    assert alone == attrs.evolve(run[0].extended_metrics, memory=alone.memory)


def test_raw_latencies_go_before_summaries() -> None:
    """Statistics of a process are computed of its values where it kept them."""
    raw = process(0, per_request_latencies_ms=(1.0, 3.0), **summed_up(50.0, 9, 7.0))

    for run in ([raw], [raw, process(1)]):
        result = aggregate(*run)
        found = result.extended_metrics.request_latency
        assert (found.e2e_latency_mean_ms, found.e2e_latency_samples) == (2, 2)
        assert found.e2e_latency_p99_ms is not None
        assert result.aggregation.warnings == ()


def test_summaries_count_beside_raw_latencies() -> None:
    """As many requests as they are of; percentiles of all there are none, and that is told."""
    raw = process(0, per_request_latencies_ms=(10.0, 20.0))

    result = aggregate(raw, process(1, **summed_up(1000.0, 98)))

    assert result.extended_metrics.request_latency == RequestLatencyMetrics(
        e2e_latency_mean_ms=(10 + 20 + 98 * 1000) / 100, e2e_latency_samples=100
    )
    assert result.aggregation.warnings == (
        "rank 1 kept a summary of request latencies only: there are no percentiles of all",
    )


def test_whose_token_latencies_are_left_out_is_told() -> None:
    """Statistics of some processes are not those of all."""
    measured = LatencyMeasurements(ttft_ms=(1.0,))
    run = [process(i, latencies=measured if i == 1 else None) for i in range(3)]

    assert aggregate(*run).aggregation.warnings == (
        "ranks 0, 2 recorded no token latencies: TTFT and ITL are those of the others",
    )
    assert aggregate(process(0), process(1)).aggregation.warnings == ()
    assert aggregate(process(0)).aggregation.warnings == ()


def test_time_per_output_token_of_summaries_is_weighted_by_tokens() -> None:
    """And intervals by their number, where they were kept."""
    run = [
        process(0, tokens=(1, 30), **summed_up(None, 0, 10.0)),
        process(1, tokens=(1, 10), **summed_up(None, 0, 50.0)),
    ]

    assert aggregate(*run).extended_metrics.tpot_ms == 20
    assert aggregate(run[0]).extended_metrics.tpot_ms == 10
    assert aggregate(*run, process(2)).extended_metrics.tpot_ms is None
    kept = process(2, latencies=LatencyMeasurements(itl_full_ms=(3.0, 5.0)))
    assert aggregate(kept, process(3)).extended_metrics.tpot_ms == 4
    of_all = (30 * 10 + 10 * 50 + 3 + 5) / (30 + 10 + 2)
    assert aggregate(*run, kept).extended_metrics.tpot_ms == of_all
