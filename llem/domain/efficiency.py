"""How well the hardware was used: memory, utilisation, batches, KV cache, request latencies."""

import attrs

from llem.domain.fields import Record, quantity


@attrs.frozen(kw_only=True, weakref_slot=False)
class MemoryEfficiencyMetrics(Record):
    """
    Device memory.

    Attributes:
        total_vram_mb: Memory of the device. Unit: MiB. None: not known.
        model_memory_mb: Memory in use once the model is loaded. Unit: MiB.
        peak_memory_mb: Most memory in use during inference. Unit: MiB.
        inference_memory_mb: *peak_memory_mb* less *model_memory_mb*. Unit: MiB.
        kv_cache_mb: Memory of the KV cache. Unit: MiB.
        tokens_per_gb_vram: Tokens processed per GiB of *total_vram_mb*.
        model_memory_utilisation: *model_memory_mb* as a share of *total_vram_mb*.
        kv_cache_memory_ratio: *kv_cache_mb* as a share of *peak_memory_mb*.
    """

    total_vram_mb: float | None = quantity(None)
    model_memory_mb: float | None = quantity(None)
    peak_memory_mb: float | None = quantity(None)
    inference_memory_mb: float | None = quantity(None)
    kv_cache_mb: float | None = quantity(None)
    tokens_per_gb_vram: float | None = quantity(None)
    model_memory_utilisation: float | None = quantity(None)
    kv_cache_memory_ratio: float | None = quantity(None)


@attrs.frozen(kw_only=True, weakref_slot=False)
class GPUUtilisationMetrics(Record):
    """
    Utilisation as the device reports it.

    Attributes:
        sm_utilisation_mean: Mean share of time with a kernel running. Unit: %.
        sm_utilisation_samples: Samples behind the mean.
        memory_bandwidth_utilisation: Mean share of time with memory traffic. Unit: %.
    """

    sm_utilisation_mean: float | None = quantity(None)
    sm_utilisation_samples: int = quantity(0)
    memory_bandwidth_utilisation: float | None = quantity(None)


@attrs.frozen(kw_only=True, weakref_slot=False)
class BatchEfficiencyMetrics(Record):
    """
    How full the batches were.

    Attributes:
        effective_batch_size: Mean requests in a batch.
        batch_utilisation: *effective_batch_size* as a share of the configured one.
        padding_overhead: Padding tokens as a share of all input tokens fed to the model.
        num_batches: Batches run.
    """

    effective_batch_size: float | None = quantity(None)
    batch_utilisation: float | None = quantity(None)
    padding_overhead: float | None = quantity(None)
    num_batches: int | None = quantity(None)


@attrs.frozen(kw_only=True, weakref_slot=False)
class KVCacheEfficiencyMetrics(Record):
    """
    The engine's KV cache.

    Attributes:
        kv_cache_hit_rate: Share of blocks found in the cache.
        kv_cache_blocks_used: Blocks in use.
        kv_cache_blocks_total: Blocks there are.
    """

    kv_cache_hit_rate: float | None = quantity(None)
    kv_cache_blocks_used: int | None = quantity(None)
    kv_cache_blocks_total: int | None = quantity(None)


@attrs.frozen(kw_only=True, weakref_slot=False)
class RequestLatencyMetrics(Record):
    """
    Latency of whole requests, from sending the prompt to the last token.

    Attributes:
        e2e_latency_mean_ms: Mean. Unit: ms.
        e2e_latency_median_ms: Median. Unit: ms.
        e2e_latency_p95_ms: 95th percentile. Unit: ms.
        e2e_latency_p99_ms: 99th percentile. Unit: ms.
        e2e_latency_samples: Requests behind the figures.
    """

    e2e_latency_mean_ms: float | None = quantity(None)
    e2e_latency_median_ms: float | None = quantity(None)
    e2e_latency_p95_ms: float | None = quantity(None)
    e2e_latency_p99_ms: float | None = quantity(None)
    e2e_latency_samples: int = quantity(0)


@attrs.frozen(kw_only=True, weakref_slot=False)
class ExtendedEfficiencyMetrics(Record):
    """
    Efficiency beyond energy and throughput.

    Attributes:
        tpot_ms: Time per output token (TPOT) after the first. Unit: ms.
        token_efficiency_index: An index that other tools write; llem keeps it and writes none.
        memory: Device memory.
        gpu_utilisation: Utilisation as the device reports it.
        batch: How full the batches were.
        kv_cache: The engine's KV cache.
        request_latency: Latency of whole requests.
    """

    tpot_ms: float | None = quantity(None)
    token_efficiency_index: float | None = None
    memory: MemoryEfficiencyMetrics = MemoryEfficiencyMetrics()
    gpu_utilisation: GPUUtilisationMetrics = GPUUtilisationMetrics()
    batch: BatchEfficiencyMetrics = BatchEfficiencyMetrics()
    kv_cache: KVCacheEfficiencyMetrics = KVCacheEfficiencyMetrics()
    request_latency: RequestLatencyMetrics = RequestLatencyMetrics()
