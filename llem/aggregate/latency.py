"""Latencies of tokens and of whole requests, over the raw values of all processes."""

from collections.abc import Iterator, Sequence
from typing import Any

from llem.aggregate.statistics import Summary, summarise
from llem.aggregate.unknown import weighted_mean
from llem.domain.efficiency import RequestLatencyMetrics
from llem.domain.latency import LatencyMeasurements, LatencyStatistics
from llem.domain.process import RawProcessResult
from llem.domain.spool import named


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

    Where a process kept a summary only: of one process what it says, of several the mean weighted
    by their requests, and no percentiles.

    Raises:
        AggregationError: A sum is larger than a float can be.
    """
    raw = summarise([p.per_request_latencies_ms for p in processes], "per_request_latencies_ms")
    summaries = [of_one for p in processes if (of_one := _request_summary(p))]
    if raw is not None and not summaries:
        return RequestLatencyMetrics(
            e2e_latency_mean_ms=raw.mean,
            e2e_latency_median_ms=raw.median,
            e2e_latency_p95_ms=raw.p95,
            e2e_latency_p99_ms=raw.p99,
            e2e_latency_samples=raw.count,
        )
    if len(processes) == 1 and processes[0].extended_metrics:
        return processes[0].extended_metrics.request_latency
    known = [(one.e2e_latency_mean_ms, one.e2e_latency_samples) for one in summaries]
    if raw is not None:
        known.append((raw.mean, raw.count))
    return RequestLatencyMetrics(
        e2e_latency_mean_ms=weighted_mean(known, "e2e_latency_mean_ms"),
        e2e_latency_samples=sum(samples for _, samples in known),
    )


def _request_summary(process: RawProcessResult) -> RequestLatencyMetrics | None:
    """What *process* says of its requests, where it kept no latencies of them."""
    metrics = process.extended_metrics
    if process.per_request_latencies_ms or metrics is None:
        return None
    return metrics.request_latency if metrics.request_latency.e2e_latency_samples else None


def tpot_ms(
    processes: Sequence[RawProcessResult], latencies: LatencyStatistics | None
) -> float | None:
    """
    Time per output token (TPOT) after the first: the mean of all inter-token latencies. Unit: ms.

    Where a process kept a summary only: of one process what it says, of several the mean weighted
    by the tokens that they generated.

    Args:
        processes: What each process measured.
        latencies: Statistics over all of them.
    """
    raw = None if latencies is None else latencies.itl_mean_ms
    own = [
        process.extended_metrics.tpot_ms if process.extended_metrics else None
        for process in processes
    ]
    if len(processes) == 1:
        return own[0] if raw is None else raw
    outputs = [process.inference_metrics.output_tokens for process in processes]
    summaries = [
        (tpot, tokens)
        for process, tpot, tokens in zip(processes, own, outputs, strict=True)
        if tpot is not None and not _intervals(process)
    ]
    if raw is None:
        return weighted_mean(zip(own, outputs, strict=True), "tpot_ms")
    counted = latencies.itl_samples if latencies else 0
    return weighted_mean([(raw, counted), *summaries], "tpot_ms") if summaries else raw


def _intervals(process: RawProcessResult) -> int:
    measured = process.inference_metrics.latency_measurements
    return 0 if measured is None else len(measured.itl_full_ms)


def latency_warnings(processes: Sequence[RawProcessResult]) -> Iterator[str]:
    """Which statistics are without the values of some processes, as these kept none."""
    without = [p.process_index for p in processes if _request_summary(p)]
    if without and len(processes) > 1:
        yield (
            f"{named(without)} kept a summary of request latencies only: there are no percentiles "
            "of all"
        )
    silent = [p.process_index for p in processes if not _has_token_latencies(p)]
    if silent and len(silent) < len(processes):
        yield f"{named(silent)} recorded no token latencies: TTFT and ITL are those of the others"


def _has_token_latencies(process: RawProcessResult) -> bool:
    measured = process.inference_metrics.latency_measurements
    return measured is not None and bool(measured.ttft_ms or measured.itl_full_ms)
