"""Causal language models on torch and transformers."""

import gc
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import attrs
import torch
import transformers
from transformers.generation.streamers import BaseStreamer

from llem.backends.flops import TokenFlops, count_flops
from llem.backends.loading import (
    load_model,
    load_tokenizer,
    one_line,
    out_of_memory,
    pick_device,
    quiet,
    silent_loading,
)
from llem.backends.prompts import (
    TokenIds,
    dataset_prompts,
    encode_bytes,
    read_dataset,
    synthetic_prompts,
)
from llem.domain.config import ExperimentConfig
from llem.domain.freeform import JsonObject
from llem.domain.latency import MeasurementMode
from llem.errors import BackendError
from llem.protocols import BackendInfo, BatchOutput, InferenceBackend, Prompts

MIB = 2**20

SET_BY_BACKEND = frozenset(
    {
        "attention_mask",
        "generation_config",
        "input_ids",
        "inputs",
        "num_return_sequences",
        "return_dict_in_generate",
        "streamer",
    }
)
"""Arguments of generate that ``passthrough_kwargs`` may not take over."""


class Timeline(BaseStreamer):
    """
    When a batch was begun, had the tokens of each step on the host, and was done: monotonic times.

    Attributes:
        started_s: Time of the start. Unit: s.
        steps_s: Times of the decoding steps. Unit: s.
        ended_s: Time of the end. Unit: s.
    """

    def __init__(self) -> None:
        self._pushed: list[float] = []
        self.started_s = self.ended_s = time.monotonic()

    @property
    def steps_s(self) -> list[float]:
        """What came first is the prompt."""
        return self._pushed[1:]

    def put(self, value: object) -> None:  # noqa: ARG002, the tokens are read from the result
        """Note that the prompt or a step is there. Fetching its tokens has synchronised a GPU."""
        self._pushed.append(time.monotonic())

    def end(self) -> None:
        """Note that there is no further step."""
        self.ended_s = time.monotonic()


@attrs.frozen(kw_only=True)
class Loaded:
    """
    A model that is ready, and what it is to do.

    Attributes:
        model: The transformers model.
        config: What it was loaded for.
        device: Where it runs.
        prompts: The prompts to run, as token ids.
        arguments: What generate is given beside a batch.
        flops: What a token costs.
    """

    model: Any
    config: ExperimentConfig
    device: torch.device
    prompts: tuple[TokenIds, ...] = ()
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    flops: TokenFlops | None = None


class PytorchBackend(InferenceBackend):
    """
    Runs any causal language model of transformers: by name on the hub, from a folder, or built in.

    The configuration alone says how tokens are chosen: defaults that a model brings along for
    sampling are put aside. Synthetic prompts ignore end-of-sequence tokens, so that each gives
    exactly as many tokens as asked for; text stops at them.

    Prompts are tuples of token ids. Sampling is seeded when the model is loaded.
    """

    def __init__(self) -> None:
        self._loaded: Loaded | None = None

    @property
    def name(self) -> str:
        """What the configuration calls it: pytorch."""
        return "pytorch"

    def load(self, config: ExperimentConfig, /) -> BackendInfo:
        """
        Load the model that *config* names, read its prompts, and try both on one token.

        Raises:
            BackendError: The device, the dataset, the model or the decoder's settings do not work.
        """
        self.close()
        arguments = _passthrough(config)
        lines = None if config.dataset is None else read_dataset(config.dataset)
        with silent_loading():
            device = pick_device(config.device)
            model = load_model(config, device)
            memory_mb = _allocated_mb(device)
            loaded = Loaded(model=model, config=config, device=device)
            with _explained(loaded):
                loaded = _prepare(loaded, lines, arguments)
                _generate(loaded, loaded.prompts[:1], max_new_tokens=1, min_new_tokens=None)
            loaded = attrs.evolve(loaded, flops=count_flops(model, loaded.prompts[0]))
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        torch.manual_seed(config.random_seed)
        self._loaded = loaded
        return _info(loaded, memory_mb)

    def prompts(self) -> Prompts:
        """The prompts of the loaded configuration, ``config.n`` of them, as token ids."""
        return self._ready().prompts

    def generate(self, batch: Prompts, /) -> BatchOutput:
        """
        Run *batch* to its last token.

        Its requests share each decoding step, hence TTFT and ITL. Beam search has no stream.

        Raises:
            BackendError: No model is loaded, memory ran out, or the model failed.
        """
        loaded = self._ready()
        if not batch:
            raise BackendError("a batch needs at least one prompt")
        streamed = loaded.arguments.get("num_beams", 1) == 1
        self.synchronize()
        timeline = Timeline()
        with _explained(loaded), quiet():
            sequences = _generate(loaded, batch, streamer=timeline if streamed else None)
            self.synchronize()
        timeline.end()
        return _output(loaded, batch, sequences, timeline)

    def synchronize(self) -> None:
        """Return once all work on the device is done."""
        if self._loaded is not None and self._loaded.device.type == "cuda":
            torch.cuda.synchronize(self._loaded.device)

    def peak_memory_mb(self) -> float | None:
        """Most GPU memory in use since loading. Unit: MiB. None: not on a GPU."""
        if self._loaded is None or self._loaded.device.type != "cuda":
            return None
        return float(torch.cuda.max_memory_allocated(self._loaded.device) / MIB)

    def close(self) -> None:
        """Let go of the model and its memory. Safe to call twice."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None and loaded.device.type == "cuda":
            del loaded
            gc.collect()
            torch.cuda.empty_cache()

    def _ready(self) -> Loaded:
        if self._loaded is None:
            raise BackendError("no model is loaded: call load(config) first")
        return self._loaded


def _passthrough(config: ExperimentConfig) -> dict[str, Any]:
    given = JsonObject(config.passthrough_kwargs).to_dict()
    taken = sorted(SET_BY_BACKEND & given.keys())
    if taken:
        raise BackendError(
            f"passthrough_kwargs may not set {', '.join(taken)}: the backend does; remove it"
        )
    return given


def _prepare(loaded: Loaded, lines: Sequence[str] | None, passthrough: Mapping[str, Any]) -> Loaded:
    model, config = loaded.model, loaded.config
    given, architecture = model.generation_config, model.config.get_text_config()
    eos = _listed(given.eos_token_id, getattr(architecture, "eos_token_id", None))
    pad = _listed(given.pad_token_id, getattr(architecture, "pad_token_id", None), eos, 0)[0]
    model.generation_config = type(given)(pad_token_id=pad)
    vocabulary = min(architecture.vocab_size, model.get_input_embeddings().num_embeddings)
    if lines is None:
        special = {pad, *eos, *_listed(given.bos_token_id)}
        prompts = synthetic_prompts(config, vocabulary, special)
    else:
        prompts = dataset_prompts(config, lines, _encoder(config.model))
    arguments = {**_decoder_arguments(config), **_length_arguments(config, eos), **passthrough}
    _check_fit(loaded, prompts, vocabulary, arguments["max_new_tokens"])
    return attrs.evolve(loaded, prompts=prompts, arguments=arguments)


def _listed(*candidates: Any) -> list[int]:
    """The first of *candidates* that is there, as a list: token ids come as one, many or none."""
    for candidate in candidates:
        if candidate is not None and candidate != []:
            return list(candidate) if isinstance(candidate, Sequence) else [candidate]
    return []


def _encoder(model: str) -> Any:
    if model.startswith("builtin:"):
        return encode_bytes
    tokenizer = load_tokenizer(model)
    return lambda line: tokenizer(line, verbose=False)["input_ids"]


def _decoder_arguments(config: ExperimentConfig) -> dict[str, Any]:
    decoder = config.decoder
    arguments: dict[str, Any] = {
        "do_sample": decoder.do_sample,
        "repetition_penalty": decoder.repetition_penalty,
    }
    if decoder.do_sample:
        # Given to greedy decoding, they make transformers warn.
        arguments |= {"temperature": decoder.temperature, "top_k": decoder.top_k}
        arguments |= {"top_p": decoder.top_p, "min_p": decoder.min_p}
    return arguments


def _length_arguments(config: ExperimentConfig, eos: list[int]) -> dict[str, Any]:
    longest = config.max_output_tokens
    if config.dataset is None:
        return {"max_new_tokens": min(config.synthetic_dataset.output_len, longest)}
    least = config.decoder.min_new_tokens
    if least is not None and least > longest:
        raise BackendError(
            f"decoder.min_new_tokens is {least}, more than max_output_tokens, {longest}: lower it"
        )
    return {"max_new_tokens": longest, "min_new_tokens": least, "eos_token_id": eos or None}


def _check_fit(
    loaded: Loaded, prompts: Sequence[TokenIds], vocabulary: int, new_tokens: int
) -> None:
    """Refuse what would fail inside a kernel, where no error names its cause."""
    model, name = loaded.model, loaded.config.model
    highest = max(map(max, prompts))
    if highest >= model.get_input_embeddings().num_embeddings:
        raise BackendError(
            f"model {name!r} has {vocabulary} tokens, but its tokenizer gave number {highest}: "
            "they do not belong together"
        )
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    wanted = max(map(len, prompts)) + new_tokens
    if positions is not None and wanted > positions:
        raise BackendError(
            f"model {name!r} takes {positions} tokens, but prompt and output may have {wanted}: "
            "lower max_input_tokens or max_output_tokens"
        )


def _generate(loaded: Loaded, batch: Sequence[TokenIds], **further: Any) -> torch.Tensor:
    """Padded prompts and what was generated for them, one row a request."""
    width = max(map(len, batch))
    pad = loaded.model.generation_config.pad_token_id
    gaps = [width - len(prompt) for prompt in batch]
    ids = [[pad] * gap + list(prompt) for gap, prompt in zip(gaps, batch, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) for gap in gaps]
    sequences: torch.Tensor = loaded.model.generate(
        input_ids=torch.tensor(ids, device=loaded.device),
        attention_mask=torch.tensor(mask, device=loaded.device),
        **{**loaded.arguments, **further},
    )
    return sequences


def _output(
    loaded: Loaded, batch: Sequence[TokenIds], sequences: torch.Tensor, timeline: Timeline
) -> BatchOutput:
    input_tokens = tuple(map(len, batch))
    width = max(input_tokens)
    ends = set(_listed(loaded.arguments.get("eos_token_id")))
    output_tokens = tuple(_generated(row[width:], ends) for row in sequences.tolist())
    steps = timeline.steps_s
    return BatchOutput(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        latency_s=timeline.ended_s - timeline.started_s,
        ttft_s=steps[0] - timeline.started_s if steps else None,
        itl_s=tuple(after - before for before, after in pairwise(steps)),
        padding_tokens=width * len(batch) - sum(input_tokens),
        flops=loaded.flops.of(input_tokens, output_tokens) if loaded.flops else None,
        mode=_mode(len(batch), steps),
        ended_s=timeline.ended_s,
    )


def _generated(row: Sequence[int], ends: set[int]) -> int:
    """Tokens up to and with the first end of sequence: what follows it is padding."""
    return next((i for i, token in enumerate(row, start=1) if token in ends), len(row))


def _mode(requests: int, steps: Sequence[float]) -> MeasurementMode:
    if not steps:
        return MeasurementMode.PROPORTIONAL
    return MeasurementMode.TRUE_STREAMING if requests == 1 else MeasurementMode.PER_REQUEST_BATCH


@contextmanager
def _explained(loaded: Loaded) -> Iterator[None]:
    """Turn whatever the libraries raise into one `BackendError` that names what to change."""
    config = loaded.config
    try:
        yield
    except BackendError:
        raise
    except Exception as fault:
        if out_of_memory(fault):
            raise BackendError(
                f"model {config.model!r} ran out of memory on {loaded.device} with batch_size "
                f"{config.batch_size}: lower batch_size, max_input_tokens or max_output_tokens"
            ) from fault
        further = ", passthrough_kwargs" if config.passthrough_kwargs else ""
        raise BackendError(
            f"model {config.model!r} cannot generate on {loaded.device} in {config.precision}: "
            f"{one_line(fault)} (check device, precision, decoder{further})"
        ) from fault


def _info(loaded: Loaded, memory_mb: float | None) -> BackendInfo:
    gpus = {p.device.index for p in loaded.model.parameters() if p.device.type == "cuda"}
    properties = [torch.cuda.get_device_properties(index) for index in sorted(gpus)]
    return BackendInfo(
        version=f"torch {torch.__version__}, transformers {transformers.__version__}",
        device=str(loaded.device),
        device_name=properties[0].name
        if properties
        else platform.processor() or platform.machine(),
        device_uuids=tuple(map(_uuid_of, properties)),
        parameters=loaded.model.num_parameters(),
        flops_method=loaded.flops.method if loaded.flops else None,
        model_memory_mb=memory_mb,
        total_memory_mb=properties[0].total_memory / MIB if properties else None,
    )


def _uuid_of(gpu: Any) -> str:
    """As NVML has it: torch leaves out what tells a MIG instance from a whole GPU."""
    return f"{'MIG' if ' MIG ' in gpu.name else 'GPU'}-{gpu.uuid}"


def _allocated_mb(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return float(torch.cuda.memory_allocated(device) / MIB)
