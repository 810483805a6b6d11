"""A model on its device: built in, from a local folder, or from the hub. A failure is one line."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from llem.domain.config import ExperimentConfig
from llem.errors import BackendError

HUB_TIMEOUT_S = 5.0
"""How long the hub may take to say whether it has a model. Unit: s."""

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def one_line(fault: BaseException) -> str:
    """What *fault* says, on one line of at most 300 characters."""
    text = " ".join(str(fault).split()) or type(fault).__name__
    return text if len(text) <= 300 else text[:296] + " ..."


def out_of_memory(fault: BaseException) -> bool:
    """Whether *fault* says that memory ran out, on a GPU or on the host."""
    # The allocator of the CPU raises a plain RuntimeError.
    return isinstance(fault, torch.OutOfMemoryError | MemoryError) or (
        isinstance(fault, RuntimeError) and "allocate memory" in str(fault)
    )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers and the hub's client from logging less than errors, meanwhile."""
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def silent_loading() -> Iterator[None]:
    """As `quiet`, and without progress bars and warnings."""
    library: Any = transformers_logging
    bars, hub_bars = library.is_progress_bar_enabled(), not are_progress_bars_disabled()
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        library.disable_progress_bar()
        disable_progress_bars()
        try:
            yield
        finally:
            # The library's switch moves the hub's too, so that one comes last.
            if bars:
                library.enable_progress_bar()
            (enable_progress_bars if hub_bars else disable_progress_bars)()


def pick_device(setting: str | None) -> torch.device:
    """
    The device that *setting* names. None: the GPU of this process, else the CPU.

    Of the processes that a launcher such as ``torchrun`` starts on one machine, each has the GPU of
    its ``LOCAL_RANK``; where there are fewer GPUs they share them.

    Raises:
        BackendError: It does not exist here.
    """
    if setting is None and not torch.cuda.is_available():
        return torch.device("cpu")
    setting = setting or "cuda"
    try:
        # Which GPU "cuda" is, is known before it is used: a context takes memory on each that is.
        device = _own_gpu() if setting == "cuda" else torch.device(setting)
        torch.zeros(1, device=device).item()
    except Exception as fault:
        raise BackendError(
            f"device {setting!r} cannot be used here: use one of {', '.join(_devices())}"
        ) from fault
    return device


def _own_gpu() -> torch.device:
    local_rank = os.environ.get("LOCAL_RANK", "")
    if local_rank.isascii() and local_rank.isdecimal():
        return torch.device("cuda", int(local_rank) % torch.cuda.device_count())
    return torch.device("cuda", torch.cuda.current_device())


def _devices() -> list[str]:
    return [*(f"cuda:{index}" for index in range(torch.cuda.device_count())), "cpu"]


def load_model(config: ExperimentConfig, device: torch.device) -> Any:
    """
    The model that *config* names, on *device* in its precision, ready to generate.

    Weights of a built-in model are drawn in fp32 from ``config.random_seed``, so that they are the
    same in every precision up to rounding.

    Raises:
        BackendError: It cannot be loaded.
    """
    try:
        built_in = config.model.startswith("builtin:")
        model = _built_in(config) if built_in else _pretrained(config)
        return model.to(device=device).eval()
    except BackendError:
        raise
    except Exception as fault:
        if out_of_memory(fault):
            raise BackendError(
                f"model {config.model!r} does not fit into the memory of {device} in "
                f"{config.precision}: use a smaller model, fp16 or bf16, or another device"
            ) from fault
        raise BackendError(
            f"model {config.model!r} cannot be loaded as a causal language model: {one_line(fault)}"
        ) from fault


def _built_in(config: ExperimentConfig) -> Any:
    architecture = BUILTIN_MODELS.get(config.model)
    if architecture is None:
        raise BackendError(
            f"model {config.model!r} is not built in: use {', '.join(BUILTIN_MODELS)}, a folder, "
            "or a name on the hub"
        )
    torch.manual_seed(config.random_seed)
    model: Any = LlamaForCausalLM(architecture())
    return model.to(DTYPES[config.precision])


def _tiny_llama() -> LlamaConfig:
    """1.1 million parameters: most of the time goes into launching kernels, even on a CPU."""
    return LlamaConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=32768,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


def _llama_1b() -> LlamaConfig:
    """0.98 billion parameters, the layers of Llama 3.2 1B: enough to keep a GPU busy."""
    return LlamaConfig(
        vocab_size=2048,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=131072,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )


BUILTIN_MODELS: Mapping[str, Callable[[], LlamaConfig]] = {
    "builtin:tiny-llama": _tiny_llama,
    "builtin:llama-1b": _llama_1b,
}
"""Models of random weights, by name."""


def _pretrained(config: ExperimentConfig) -> Any:
    dtype = DTYPES[config.precision]
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        **source(config.model), dtype=dtype, output_loading_info=True
    )
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise BackendError(
            f"model {config.model!r} lacks {len(missing)} of its weights, such as {missing[0]}: "
            "they would be random; use a checkpoint of a causal language model"
        )
    return model


def load_tokenizer(model: str) -> Any:
    """
    The tokenizer saved with *model*.

    Raises:
        BackendError: It cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(**source(model))
    except BackendError:
        raise
    except Exception as fault:
        raise BackendError(
            f"model {model!r} has no tokenizer that can be loaded, which a text dataset needs: "
            f"{one_line(fault)}"
        ) from fault


def source(model: str) -> dict[str, Any]:
    """
    Where `from_pretrained` finds *model*, as its arguments.

    The hub is asked once and briefly, since the library itself retries for half a minute. Where it
    does not answer, what was downloaded before is used.

    Raises:
        BackendError: It is in none of these places.
    """
    # None would let the library ask on the terminal whether to run code from the hub.
    options = {"trust_remote_code": False}
    folder = Path(model).expanduser()
    if folder.exists():
        _check_folder(model, folder)
        return {"pretrained_model_name_or_path": str(folder), **options}
    downloaded = _downloaded(model)
    refusal = _hub_refusal(model)
    if refusal is not None:
        if not downloaded:
            raise BackendError(refusal)
        options["local_files_only"] = True
    return {"pretrained_model_name_or_path": model, **options}


def _check_folder(model: str, folder: Path) -> None:
    if not folder.is_dir():
        raise BackendError(f"model {model!r} is a file: name the folder that holds its config.json")
    if not (folder / "config.json").is_file():
        raise BackendError(
            f"model {model!r} is a folder without a config.json: name one that "
            "save_pretrained wrote or that was downloaded from the hub"
        )


def _downloaded(model: str) -> bool:
    try:
        return isinstance(huggingface_hub.try_to_load_from_cache(model, "config.json"), str)
    except HFValidationError as fault:
        raise BackendError(
            f"model {model!r} is neither a folder here nor a name the hub can have: check the path"
        ) from fault


def _hub_refusal(model: str) -> str | None:
    """Why *model* cannot be had from the hub now. None: it can."""
    try:
        url = huggingface_hub.hf_hub_url(model, "config.json")
        huggingface_hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S)
    except GatedRepoError:
        return f"model {model!r} is gated: accept its terms on the hub, then run: hf auth login"
    except RepositoryNotFoundError:
        return (
            f"model {model!r} is neither on the hub nor a folder here: check the name for a typo; "
            "a private model needs: hf auth login"
        )
    except EntryNotFoundError:
        return f"model {model!r} has no config.json on the hub: name one made for transformers"
    except Exception:  # noqa: BLE001, each version of the client has its own connection errors
        return (
            f"model {model!r} is neither a folder here nor among the downloaded models, and the "
            "hub cannot be reached: check the name for a typo, the path, and the network"
        )
    return None
