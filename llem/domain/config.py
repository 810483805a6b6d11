"""What is run: the configuration of an experiment."""

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from llem.domain.fields import Setting, at_least, fraction, quantity, some_text

DEFAULT_MODEL = "builtin:tiny-llama"
"""A small Llama architecture with seeded random weights, built on the spot."""


@attrs.frozen(kw_only=True, weakref_slot=False)
class SyntheticDataset(Setting):
    """
    Prompts of random tokens, all of one length, the same for the same seed.

    Attributes:
        input_len: Length of each prompt. Unit: tokens.
        output_len: Tokens generated for each prompt, cut to max_output_tokens. Unit: tokens.
        seed: Seed of the prompts' tokens.
    """

    input_len: int = at_least(1, 64)
    output_len: int = at_least(1, 32)
    seed: int = quantity(42)


@attrs.frozen(kw_only=True, weakref_slot=False)
class DecoderConfig(Setting):
    """
    How the next token is chosen.

    Attributes:
        do_sample: Sample from the distribution. False: greedy decoding.
        temperature: Divisor of the logits before sampling.
        top_k: Sample from the k most probable tokens. 0: from all.
        top_p: Sample from the smallest set of tokens whose probability reaches p.
        repetition_penalty: Divisor of the logits of tokens already present. 1.0: none.
        min_p: Least probability of a token, as a share of the most probable one's.
        min_new_tokens: Least number of tokens to generate.
    """

    do_sample: bool = False
    temperature: float = quantity(1.0)
    top_k: int = quantity(50)
    top_p: float = fraction(1.0)
    repetition_penalty: float = quantity(1.0)
    min_p: float | None = fraction(None)
    min_new_tokens: int | None = quantity(None)


@attrs.frozen(kw_only=True, weakref_slot=False)
class WarmupConfig(Setting):
    """
    What runs before the measured window.

    Attributes:
        enabled: Run a warmup.
        n_warmup: Requests to run where convergence is not looked for.
        thermal_floor_seconds: Wait after the warmup, where a device is metered. Unit: s.
        convergence_detection: Run until the latencies settle, and measure a steady state.
        cv_threshold: Coefficient of variation of the latencies under which they have settled.
        max_prompts: Requests after which warming up ends unsettled.
        window_size: Latest requests that the coefficient of variation is taken over.
        min_prompts: Requests to run before settling is looked for.
    """

    enabled: bool = True
    n_warmup: int = quantity(5)
    thermal_floor_seconds: float = quantity(60.0)
    convergence_detection: bool = False
    cv_threshold: float = quantity(0.05)
    max_prompts: int = at_least(1, 20)
    window_size: int = at_least(2, 5)
    min_prompts: int = quantity(5)


@attrs.frozen(kw_only=True, weakref_slot=False)
class BaselineConfig(Setting):
    """
    Idle power, measured before the run where a device is metered.

    Attributes:
        enabled: Measure idle power.
        duration_seconds: How long to watch the idle devices. Unit: s.
    """

    enabled: bool = True
    duration_seconds: float = quantity(30.0)


@attrs.frozen(kw_only=True, weakref_slot=False)
class EnergyConfig(Setting):
    """
    Where energy is read.

    Attributes:
        backend: nvml, rapl or zeus; auto takes the first that answers here; None reads none.
    """

    backend: Literal["auto", "nvml", "rapl", "zeus"] | None = "auto"


@attrs.frozen(kw_only=True, weakref_slot=False)
class ExperimentConfig(Setting):
    """
    One experiment: a model, what it is given, and how it is run and measured.

    Where results go is no part of it, so that the same experiment has the same hash everywhere.

    Attributes:
        model: Name on the model hub, path of a local folder, or builtin:tiny-llama or
            builtin:llama-1b.
        backend: What runs the model.
        n: Prompts to run.
        dataset: Text file with one prompt a line. None: synthetic prompts.
        synthetic_dataset: The prompts where no dataset is given.
        precision: Number format of the weights and activations.
        device: Torch device, such as cuda:0 or cpu. None: the first GPU, else the CPU.
        random_seed: Seed of built-in weights and of sampling.
        max_input_tokens: Prompts are cut to this length. Unit: tokens.
        max_output_tokens: Most tokens generated for a prompt. Unit: tokens.
        batch_size: Prompts that are run together.
        decoder: How the next token is chosen.
        warmup: What runs before the measured window.
        baseline: Idle power before the run.
        energy: Where energy is read.
        passthrough_kwargs: Handed to the backend's generate call as they are.
    """

    model: str = some_text(DEFAULT_MODEL)
    backend: str = some_text("pytorch")
    n: int = at_least(1, 30)
    dataset: str | None = some_text(None)
    synthetic_dataset: SyntheticDataset = SyntheticDataset()
    precision: Literal["fp32", "fp16", "bf16"] = "bf16"
    device: str | None = some_text(None)
    random_seed: int = quantity(42)
    max_input_tokens: int = at_least(1, 512)
    max_output_tokens: int = at_least(1, 128)
    batch_size: int = at_least(1, 1)
    decoder: DecoderConfig = DecoderConfig()
    warmup: WarmupConfig = WarmupConfig()
    baseline: BaselineConfig = BaselineConfig()
    energy: EnergyConfig = EnergyConfig()
    passthrough_kwargs: Mapping[str, Any] | None = None
