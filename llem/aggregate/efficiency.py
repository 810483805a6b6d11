"""Efficiency beyond energy and throughput: memory, utilisation, batches, KV cache."""

from collections.abc import Callable, Sequence

import attrs

from llem.aggregate.devices import gpus_of
from llem.aggregate.latency import request_latency, tpot_ms
from llem.aggregate.unknown import exact_sum, highest, product, ratio, total, weighted_mean
from llem.domain.efficiency import (
    BatchEfficiencyMetrics,
    ExtendedEfficiencyMetrics,
    GPUUtilisationMetrics,
    KVCacheEfficiencyMetrics,
    MemoryEfficiencyMetrics,
)
from llem.domain.latency import LatencyStatistics
from llem.domain.process import RawProcessResult

_NOTHING = ExtendedEfficiencyMetrics()


def extended_metrics(
    processes: Sequence[RawProcessResult], tokens: int, latencies: LatencyStatistics | None
) -> ExtendedEfficiencyMetrics:
    """
    Recomputed from raw data; weighted where a process left a summary only; never a mean of means.

    Of one process it is what the process says.

    Args:
        processes: What each process measured.
        tokens: Tokens of all of them.
        latencies: Statistics over all of them.
    """
    alone = len(processes) == 1
    own = processes[0].extended_metrics or _NOTHING
    return ExtendedEfficiencyMetrics(
        tpot_ms=tpot_ms(processes, latencies),
        token_efficiency_index=own.token_efficiency_index if alone else None,
        memory=_memory_of_one(processes[0], tokens) if alone else _memory(processes, tokens),
        gpu_utilisation=_utilisation(processes),
        batch=own.batch if alone else _batch(processes),
        kv_cache=own.kv_cache if alone else _kv_cache(processes),
        request_latency=request_latency(processes),
    )


def _metrics(process: RawProcessResult) -> ExtendedEfficiencyMetrics:
    return process.extended_metrics or _NOTHING


def _memory_of_one(process: RawProcessResult, tokens: int) -> MemoryEfficiencyMetrics:
    own = _metrics(process).memory
    if own.tokens_per_gb_vram is not None:
        return own
    return attrs.evolve(own, tokens_per_gb_vram=_per_gb(tokens, _vram_mb([process])))


def _per_gb(tokens: int, vram_mb: float | None) -> float | None:
    return ratio(tokens, None if vram_mb is None else vram_mb / 1024)


def _memory(processes: Sequence[RawProcessResult], tokens: int) -> MemoryEfficiencyMetrics:
    """
    Memory of one device, that of which most was there or in use: maxima over the processes.

    What is derived from them is derived of these maxima, and the maximum of what the processes say
    where they do not know its parts. Tokens alone are set against the memory of all distinct GPUs.
    """
    known = [_metrics(process).memory for process in processes]

    def most(read: Callable[[MemoryEfficiencyMetrics], float | None]) -> float | None:
        return highest(map(read, known))

    total_mb, model_mb = most(lambda m: m.total_vram_mb), most(lambda m: m.model_memory_mb)
    peak_mb, cache_mb = most(lambda m: m.peak_memory_mb), most(lambda m: m.kv_cache_mb)
    used_mb = most(lambda m: m.inference_memory_mb)
    if peak_mb is not None and model_mb is not None:
        used_mb = max(peak_mb - model_mb, 0.0)
    model_share, cache_share = ratio(model_mb, total_mb), ratio(cache_mb, peak_mb)
    return MemoryEfficiencyMetrics(
        total_vram_mb=total_mb,
        model_memory_mb=model_mb,
        peak_memory_mb=peak_mb,
        inference_memory_mb=used_mb,
        kv_cache_mb=cache_mb,
        tokens_per_gb_vram=_per_gb(tokens, _vram_mb(processes)),
        model_memory_utilisation=most(lambda m: m.model_memory_utilisation)
        if model_share is None
        else model_share,
        kv_cache_memory_ratio=most(lambda m: m.kv_cache_memory_ratio)
        if cache_share is None
        else cache_share,
    )


def _vram_mb(processes: Sequence[RawProcessResult]) -> float | None:
    """Over distinct GPUs, those of a process all alike. None where that of one is not known."""
    by_gpu: dict[str | int, float | None] = {}
    for process in processes:
        vram_mb = _metrics(process).memory.total_vram_mb
        for gpu in gpus_of(process):
            by_gpu[gpu] = highest([by_gpu.get(gpu), vram_mb])
    return total(by_gpu.values(), "tokens_per_gb_vram")


def _utilisation(processes: Sequence[RawProcessResult]) -> GPUUtilisationMetrics:
    """Means over all samples; a summary counts by the number of its own."""
    known = [_utilisation_of_one(process) for process in processes]
    if len(known) == 1:
        return known[0]
    moved = [one for one in known if one.memory_bandwidth_utilisation is not None]
    mean, samples = _busy(processes)
    return GPUUtilisationMetrics(
        sm_utilisation_mean=mean,
        sm_utilisation_samples=samples,
        memory_bandwidth_utilisation=weighted_mean(
            ((one.memory_bandwidth_utilisation, one.sm_utilisation_samples) for one in moved),
            "memory_bandwidth_utilisation",
        ),
    )


def _utilisation_of_one(process: RawProcessResult) -> GPUUtilisationMetrics:
    own = _metrics(process).gpu_utilisation
    if not process.gpu_utilisation_samples:
        return own
    mean, samples = _busy([process])
    return attrs.evolve(own, sm_utilisation_mean=mean, sm_utilisation_samples=samples)


def _busy(processes: Sequence[RawProcessResult]) -> tuple[float | None, int]:
    """Mean over all samples of the utilisation, and their number."""
    field = "gpu_utilisation_samples"
    raw = [value for process in processes for value in process.gpu_utilisation_samples]
    own = [_metrics(p).gpu_utilisation for p in processes if not p.gpu_utilisation_samples]
    sums = [product(one.sm_utilisation_mean, one.sm_utilisation_samples, field) for one in own]
    samples = len(raw) + sum(
        one.sm_utilisation_samples for one in own if one.sm_utilisation_mean is not None
    )
    return ratio(exact_sum([*raw, *(x for x in sums if x is not None)], field), samples), samples


def _batch(processes: Sequence[RawProcessResult]) -> BatchEfficiencyMetrics:
    """Means weighted by the batches behind them; None where their number is not known."""
    known = [_metrics(process).batch for process in processes]

    def mean(read: Callable[[BatchEfficiencyMetrics], float | None], field: str) -> float | None:
        return weighted_mean(((read(one), one.num_batches) for one in known), field)

    return BatchEfficiencyMetrics(
        effective_batch_size=mean(lambda one: one.effective_batch_size, "effective_batch_size"),
        batch_utilisation=mean(lambda one: one.batch_utilisation, "batch_utilisation"),
        padding_overhead=_padding_overhead(processes),
        num_batches=total((one.num_batches for one in known), "num_batches"),
    )


def _padding_overhead(processes: Sequence[RawProcessResult]) -> float | None:
    """Padding of all as a share of what all fed to the model, prompts and padding."""
    known = [(_metrics(p).batch, p.inference_metrics.input_tokens) for p in processes]
    fed = (
        (batch.padding_overhead, _tokens_fed(prompts, batch.padding_overhead))
        for batch, prompts in known
        if batch.num_batches != 0
    )
    return weighted_mean(fed, "padding_overhead")


def _tokens_fed(prompts: int | None, padding: float | None) -> float | None:
    """Prompts and padding. None where they were padding alone, or it is not known."""
    if prompts is None or padding is None or padding >= 1:
        return None
    return prompts / (1 - padding)


def _kv_cache(processes: Sequence[RawProcessResult]) -> KVCacheEfficiencyMetrics:
    """Blocks of all processes, each with a cache of its own; hits weighted by prompt tokens."""
    known = [_metrics(process).kv_cache for process in processes]
    prompts = [process.inference_metrics.input_tokens for process in processes]
    rates = [one.kv_cache_hit_rate for one in known]
    return KVCacheEfficiencyMetrics(
        kv_cache_hit_rate=weighted_mean(zip(rates, prompts, strict=True), "kv_cache_hit_rate"),
        kv_cache_blocks_used=total((one.kv_cache_blocks_used for one in known), "blocks_used"),
        kv_cache_blocks_total=total((one.kv_cache_blocks_total for one in known), "blocks_total"),
    )
