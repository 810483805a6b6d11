"""Latencies of tokens and of whole requests, over the raw values of all processes."""

from collections.abc import Sequence
from typing import Any

from llem.aggregate.statistics import Summary, summarise
from llem.aggregate.unknown import weighted_mean
from llem.domain.efficiency import RequestLatencyMetrics
from llem.domain.latency import LatencyMeasurements, LatencyStatistics
from llem.domain.process import RawProcessResult


def latency_statistics(
    measurements: Sequence[LatencyMeasurements | None],
) -> LatencyStatistics | None:
    """
    Statistics over the concatenated token latencies of all processes.

    Inter-token latencies are all of them, first and last interval included. None where nothing was
    measured.

    Raises:
        AggregationError: A sum is larger than a float can be.
    """
    known = [measured for measured in measurements if measured is not None]
    ttft = summarise([measured.ttft_ms for measured in known], "ttft_ms")
    itl = summarise([measured.itl_full_ms for measured in known], "itl_full_ms")
    if ttft is None and itl is None:
        return None
    return LatencyStatistics(**_fields("ttft", ttft), **_fields("itl", itl))


def _fields(name: str, summary: Summary | None) -> dict[str, Any]:
    if summary is None:
        return {}
    return {
        f"{name}_mean_ms": summary.mean,
        f"{name}_median_ms": summary.median,
        f"{name}_p95_ms": summary.p95,
        f"{name}_p99_ms": summary.p99,
        f"{name}_min_ms": summary.least,
        f"{name}_max_ms": summary.greatest,
        f"{name}_samples": summary.count,
    }


def request_latency(processes: Sequence[RawProcessResult]) -> RequestLatencyMetrics:
    """
    Statistics over the latencies of all requests.

    Where no process kept them: of one process what it says, of several the mean weighted by their
    requests, and no percentiles.

    Raises:
        AggregationError: A sum is larger than a float can be.
    """
    raw = summarise([p.per_request_latencies_ms for p in processes], "per_request_latencies_ms")
    if raw is not None:
        return RequestLatencyMetrics(
            e2e_latency_mean_ms=raw.mean,
            e2e_latency_median_ms=raw.median,
            e2e_latency_p95_ms=raw.p95,
            e2e_latency_p99_ms=raw.p99,
            e2e_latency_samples=raw.count,
        )
    known = [p.extended_metrics.request_latency for p in processes if p.extended_metrics]
    if len(processes) == 1 and known:
        return known[0]
    return RequestLatencyMetrics(
        e2e_latency_mean_ms=weighted_mean(
            ((one.e2e_latency_mean_ms, one.e2e_latency_samples) for one in known),
            "e2e_latency_mean_ms",
        ),
        e2e_latency_samples=sum(one.e2e_latency_samples for one in known),
    )


def tpot_ms(
    processes: Sequence[RawProcessResult], latencies: LatencyStatistics | None
) -> float | None:
    """
    Time per output token (TPOT) after the first: the mean of all inter-token latencies. Unit: ms.

    Where no process kept them: of one process what it says, of several the mean weighted by the
    tokens that they generated.

    Args:
        processes: What each process measured.
        latencies: Statistics over all of them.
    """
    if latencies is not None and latencies.itl_mean_ms is not None:
        return latencies.itl_mean_ms
    own = [p.extended_metrics.tpot_ms if p.extended_metrics else None for p in processes]
    if len(processes) == 1:
        return own[0]
    outputs = [process.inference_metrics.output_tokens for process in processes]
    return weighted_mean(zip(own, outputs, strict=True), "tpot_ms")
