"""One run with a backend of llem, from loading the model to the result."""

from typing import Literal

import attrs

from llem import measure
from llem.backends import open_backend
from llem.domain.config import EnergyConfig, ExperimentConfig
from llem.errors import ConfigError
from llem.experiment import Experiment, Progress
from llem.protocols import BackendInfo, Clock, EnergyMeter, InferenceBackend, Peers, Prompts


def run_experiment(
    config: ExperimentConfig,
    *,
    backend: InferenceBackend | None = None,
    meter: EnergyMeter | Literal["auto"] | None = "auto",
    baseline_max_age_s: float = 0.0,
    clock: Clock | None = None,
    peers: Peers | None = None,
    progress: Progress | None = None,
) -> Experiment:
    """
    Run *config* from loading the model to the result.

    Of several processes each runs its share of the prompts, on a device of its own.

    Args:
        config: What is run.
        backend: What runs the model. None: the one that the configuration names.
        meter: As for `Experiment`.
        baseline_max_age_s: As for `Experiment`.
        clock: What tells the time.
        peers: As for `Experiment`.
        progress: Is told what goes on.

    Returns:
        The experiment, its ``result`` and ``timeseries`` ready to be put into a store.

    Raises:
        BackendError: The model cannot be loaded or run.
        MeterError: The meter that the configuration asks for does not answer.
    """
    progress = progress or (lambda *_: None)
    if meter == "auto":
        _check_meter(config.energy)
    backend = backend or open_backend(config.backend)
    try:
        progress("load", 0, None)
        info = backend.load(config)
        batches = _batches(_share(backend.prompts(), peers), config.batch_size)
        experiment = Experiment(
            attrs.evolve(config, device=_kind_of_device(config, info)),
            info=info,
            meter=meter,
            synchronize=backend.synchronize,
            peak_memory_mb=backend.peak_memory_mb,
            baseline_max_age_s=baseline_max_age_s,
            clock=clock,
            peers=peers,
            progress=progress,
        )
        with experiment as run:
            _run_batches(run, backend, batches, progress)
    finally:
        backend.close()
    return experiment


def _check_meter(config: EnergyConfig) -> None:
    """Find out before a model is loaded that a meter asked for by name does not answer."""
    if config.backend != "auto":
        opened, _ = measure.open_meter(config)
        if opened is not None:
            opened.close()


def _run_batches(
    run: Experiment, backend: InferenceBackend, batches: list[Prompts], progress: Progress
) -> None:
    done = 0

    def warmup_step() -> float:
        nonlocal done
        latency_s = backend.generate(batches[done % len(batches)]).latency_s
        done += 1
        progress("warmup", done, None)
        return latency_s

    run.warm_up(warmup_step)
    total = sum(map(len, batches))
    done = 0
    progress("run", done, total)
    for batch in batches:
        output = backend.generate(batch)
        run.record(**attrs.asdict(output, recurse=False))
        done += len(batch)
        progress("run", done, total)


def _share(prompts: Prompts, peers: Peers | None) -> Prompts:
    """The prompts of this process: each is run by one of them."""
    if peers is None:
        return prompts
    if len(prompts) < peers.count:
        raise ConfigError(
            f"n is {len(prompts)}, and there are {peers.count} ranks: give each a prompt "
            f"(--num-prompts {peers.count} or more), or start fewer",
            field="n",
        )
    return prompts[peers.index :: peers.count]


def _kind_of_device(config: ExperimentConfig, info: BackendInfo) -> str:
    """
    Where the model ran, as the configuration says, or else as what kind of device.

    Which GPU of a machine it was stands in the evidence: the same run on another one, or on several
    by as many processes, has the same configuration.
    """
    return config.device or info.device.partition(":")[0]


def _batches(prompts: Prompts, size: int) -> list[Prompts]:
    return [prompts[i : i + size] for i in range(0, len(prompts), size)]
