"""Efficiency of several processes: weighted, never a mean of means."""

from typing import Any

import attrs
import pytest
from ranks import aggregate, device, process

from llem.domain.efficiency import (
    BatchEfficiencyMetrics,
    ExtendedEfficiencyMetrics,
    GPUUtilisationMetrics,
    KVCacheEfficiencyMetrics,
    MemoryEfficiencyMetrics,
)
from llem.domain.energy import Sensor
from llem.domain.process import RawProcessResult


def batches(size: float | None, utilised: float | None, padding: float | None, n: int | None):
    return ExtendedEfficiencyMetrics(
        batch=BatchEfficiencyMetrics(
            effective_batch_size=size,
            batch_utilisation=utilised,
            padding_overhead=padding,
            num_batches=n,
        )
    )


def of_batches(*metrics: ExtendedEfficiencyMetrics | None) -> BatchEfficiencyMetrics:
    run = (process(i, extended_metrics=one) for i, one in enumerate(metrics))
    return aggregate(*run).extended_metrics.batch


def test_batch_means_are_weighted_by_their_batches() -> None:
    """Three batches count three times as much as one."""
    together = of_batches(batches(8.0, 1.0, 0.0, 3), batches(4.0, 0.5, 0.4, 1))

    assert together.effective_batch_size == 7
    assert together.batch_utilisation == 0.875
    assert together.num_batches == 4


def test_batches_of_one_process_are_as_it_says() -> None:
    """Also where it does not say how many there were."""
    one = batches(8.0, None, 0.25, None)

    assert of_batches(one) == one.batch


def test_an_unknown_mean_of_batches_stays_unknown() -> None:
    """One process did not know its padding, another ran no batch at all."""
    together = of_batches(
        batches(8.0, 1.0, None, 3), batches(4.0, 0.5, 0.4, 1), batches(None, None, None, 0)
    )

    assert together.padding_overhead is None
    assert together.effective_batch_size == 7
    assert together.num_batches == 4


def test_an_unknown_number_of_batches_stays_unknown() -> None:
    """None is not 0, and without weights there is no weighted mean."""
    for unknown in (batches(8.0, 1.0, None, None), batches(None, None, None, None), None):
        assert of_batches(unknown, batches(4.0, 0.5, 0.4, 1)) == BatchEfficiencyMetrics()
        assert of_batches(unknown, unknown) == BatchEfficiencyMetrics()


def padded(prompts: int | None, share: float | None, n: int | None = 1) -> dict[str, Any]:
    return {"tokens": (prompts, 5), "extended_metrics": batches(None, None, share, n)}


@pytest.mark.parametrize(
    ("parts", "together"),
    [
        # 300 prompt tokens with 100 of padding, and 50 with 50: 150 of 500.
        ([padded(300, 0.25), padded(50, 0.5)], 0.3),
        ([padded(300, 0.25, 1), padded(50, 0.5, 1000)], 0.3),
        ([padded(300, 0.25, None), padded(50, 0.5, None)], 0.3),
        ([padded(300, 0.25), padded(0, 0.0)], 0.25),
        ([padded(300, 0.25), padded(50, None, 0)], 0.25),
        ([padded(300, 0.25), padded(50, None)], None),
        ([padded(300, 0.25), padded(None, 0.5)], None),
        ([padded(300, 0.25), padded(0, 1.0)], None),
        ([padded(0, 0.0), padded(0, 0.0)], None),
    ],
)
def test_padding_is_a_share_of_all_tokens_fed(parts, together) -> None:
    """Not of batches; of padding alone it is not known how much there was."""
    run = (process(i, **part) for i, part in enumerate(parts))

    found = aggregate(*run).extended_metrics.batch.padding_overhead

    assert found == (None if together is None else pytest.approx(together))


def test_memory_is_the_highest() -> None:
    """Of each process; tokens are set against the memory of all."""
    run = [
        process(
            i,
            extended_metrics=ExtendedEfficiencyMetrics(
                memory=MemoryEfficiencyMetrics(total_vram_mb=1024.0, peak_memory_mb=peak)
            ),
        )
        for i, peak in enumerate([None, 300.0, 200.0])
    ]

    memory = aggregate(*run).extended_metrics.memory

    assert memory.peak_memory_mb == 300
    assert memory.kv_cache_mb is None
    assert memory.tokens_per_gb_vram == 450 / 3
    assert aggregate(process()).extended_metrics.memory == MemoryEfficiencyMetrics()


def test_utilisation_is_the_mean_of_all_samples() -> None:
    """Not the mean of means; without samples a single process's own figure stands."""
    own = ExtendedEfficiencyMetrics(
        gpu_utilisation=GPUUtilisationMetrics(
            sm_utilisation_mean=55.0, memory_bandwidth_utilisation=30.0
        )
    )
    sampled = [
        process(0, gpu_utilisation_samples=(10.0, 20.0, 30.0), extended_metrics=own),
        process(1, gpu_utilisation_samples=(100.0,)),
    ]

    together = aggregate(*sampled).extended_metrics.gpu_utilisation

    assert together.sm_utilisation_mean == 40
    assert together.sm_utilisation_samples == 4
    assert together.memory_bandwidth_utilisation == 30
    alone = aggregate(process(extended_metrics=own)).extended_metrics
    assert alone.gpu_utilisation == own.gpu_utilisation


def with_memory(index: int, *gpus: str, **fields: float) -> RawProcessResult:
    memory = MemoryEfficiencyMetrics(**fields)
    metrics = ExtendedEfficiencyMetrics(memory=memory)
    devices = tuple(device(uuid, gpu_index=i) for i, uuid in enumerate(gpus)) or None
    return process(index, devices=devices, extended_metrics=metrics)


def test_memory_of_gpus_counts_once() -> None:
    """Two processes on one GPU, and one on another; maxima are of one device."""
    run = [
        with_memory(0, "GPU-a", total_vram_mb=1024.0),
        with_memory(1, "GPU-a", total_vram_mb=1024.0),
        with_memory(2, "GPU-b", total_vram_mb=2048.0),
    ]

    memory = aggregate(*run).extended_metrics.memory

    assert memory.tokens_per_gb_vram == 450 / 3
    assert memory.total_vram_mb == 2048
    beside = with_memory(3, "GPU-a")
    assert aggregate(*run, beside).extended_metrics.memory.tokens_per_gb_vram == 600 / 3
    unknown = aggregate(*run, process(3)).extended_metrics.memory
    assert unknown.tokens_per_gb_vram is None
    assert unknown.total_vram_mb == 2048


def test_memory_of_each_gpu_of_a_process_counts() -> None:
    """Four GPUs have as much whether one process has them, or two, or four; RAPL domains none."""
    cpu = device("package-0", gpu_index=9, sensor=Sensor.RAPL)

    def run(*shares: str) -> list[float | None]:
        parts = [with_memory(i, *share, total_vram_mb=1024.0) for i, share in enumerate(shares)]
        parts[0] = attrs.evolve(parts[0], devices=(*parts[0].devices, cpu))
        memory = aggregate(*parts).extended_metrics.memory
        return [memory.tokens_per_gb_vram, memory.total_vram_mb]

    assert run("abcd") == [150 / 4, 1024]
    assert run("ab", "cd") == [300 / 4, 1024]
    assert run("a", "b", "c", "d") == [600 / 4, 1024]


def test_what_is_derived_of_memory_is_derived_of_the_maxima() -> None:
    """So that the figures of the record fit together."""
    memory = aggregate(
        with_memory(
            0, total_vram_mb=1000.0, model_memory_mb=100.0, peak_memory_mb=300.0, kv_cache_mb=50.0
        ),
        with_memory(
            1,
            total_vram_mb=800.0,
            model_memory_mb=200.0,
            peak_memory_mb=250.0,
            inference_memory_mb=999.0,
            model_memory_utilisation=0.9,
            kv_cache_memory_ratio=0.9,
        ),
    ).extended_metrics.memory

    assert memory.inference_memory_mb == 300 - 200
    assert memory.model_memory_utilisation == 200 / 1000
    assert memory.kv_cache_memory_ratio == 50 / 300


def test_what_is_derived_of_memory_that_nobody_knows_is_the_highest_said() -> None:
    """A share without its parts."""
    said = {"inference_memory_mb": 7.0, "model_memory_utilisation": 0.5}
    memory = aggregate(
        with_memory(0, **said), with_memory(1, kv_cache_memory_ratio=0.25)
    ).extended_metrics.memory

    assert memory == MemoryEfficiencyMetrics(**said, kv_cache_memory_ratio=0.25)


def test_memory_in_use_is_not_negative() -> None:
    """The peak of one process may lie below the model of another."""
    memory = aggregate(
        with_memory(0, peak_memory_mb=100.0), with_memory(1, model_memory_mb=200.0)
    ).extended_metrics.memory

    assert memory.inference_memory_mb == 0


def busy(mean: float | None, samples: int, moved: float | None = None) -> dict[str, Any]:
    utilisation = GPUUtilisationMetrics(
        sm_utilisation_mean=mean, sm_utilisation_samples=samples, memory_bandwidth_utilisation=moved
    )
    return {"extended_metrics": ExtendedEfficiencyMetrics(gpu_utilisation=utilisation)}


def of_busy(*parts: dict[str, Any]) -> GPUUtilisationMetrics:
    run = (process(i, **part) for i, part in enumerate(parts))
    return aggregate(*run).extended_metrics.gpu_utilisation


def test_summaries_of_utilisation_are_weighted_by_their_samples() -> None:
    """Of time with kernels and of time with memory traffic."""
    together = of_busy(busy(10.0, 3, 60.0), busy(50.0, 1, 20.0))

    assert attrs.astuple(together) == (20.0, 4, 50.0)


def test_summaries_and_samples_of_utilisation_count_alike() -> None:
    """One process kept them, one their mean; what nobody sampled weighs nothing."""
    sampled = {"gpu_utilisation_samples": (50.0, 90.0), **busy(1.0, 1, 30.0)}

    together = of_busy(sampled, busy(10.0, 2, 60.0), busy(None, 7), busy(99.0, 0, 99.0))

    assert attrs.astuple(together) == (40.0, 4, 45.0)


def cached(prompts: int | None, rate: float | None, used: int | None, total: int | None):
    kv_cache = KVCacheEfficiencyMetrics(
        kv_cache_hit_rate=rate, kv_cache_blocks_used=used, kv_cache_blocks_total=total
    )
    metrics = ExtendedEfficiencyMetrics(kv_cache=kv_cache)
    return {"tokens": (prompts, 5), "extended_metrics": metrics}


@pytest.mark.parametrize(
    ("parts", "together"),
    [
        ([cached(300, 0.5, 10, 20), cached(100, 0.9, 1, 20)], (0.6, 11, 40)),
        ([cached(300, 0.5, 10, 20), cached(100, None, None, 20)], (None, None, 40)),
        ([cached(300, 0.5, 10, 20), cached(None, 0.9, 1, None)], (None, 11, None)),
        ([cached(300, 0.5, 10, 20), {}], (None, None, None)),
    ],
)
def test_caches_of_processes_are_added_up(parts, together) -> None:
    """Each has blocks of its own; hits are weighted by prompt tokens."""
    run = (process(i, **part) for i, part in enumerate(parts))

    found = attrs.astuple(aggregate(*run).extended_metrics.kv_cache)

    assert found == pytest.approx(together)


def test_an_index_of_other_tools_is_kept_of_one_process_only() -> None:
    """What it would be of several is not known."""
    own = ExtendedEfficiencyMetrics(token_efficiency_index=1.5)

    alone = aggregate(process(0, extended_metrics=own)).extended_metrics
    both = aggregate(*(process(i, extended_metrics=own) for i in range(2))).extended_metrics

    assert alone.token_efficiency_index == 1.5
    assert both.token_efficiency_index is None


def test_memory_of_one_process_is_as_it_says() -> None:
    """What it says and what it does not; tokens by memory are added."""
    own = MemoryEfficiencyMetrics(total_vram_mb=2048.0, peak_memory_mb=9.0, model_memory_mb=3.0)

    memory = aggregate(with_memory(0, **known(own))).extended_metrics.memory

    assert memory == attrs.evolve(own, tokens_per_gb_vram=75.0)
    odd = attrs.evolve(own, tokens_per_gb_vram=1.0, model_memory_utilisation=7.0)
    assert aggregate(with_memory(0, **known(odd))).extended_metrics.memory == odd


def known(record: Any) -> dict[str, Any]:
    return {name: value for name, value in attrs.asdict(record).items() if value is not None}
