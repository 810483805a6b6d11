"""Prompts as token ids: synthetic ones, or the lines of a text file."""

import os
import random
from collections.abc import Callable, Collection, Sequence
from itertools import cycle, islice
from pathlib import Path

from llem.domain.config import ExperimentConfig
from llem.errors import BackendError

TokenIds = tuple[int, ...]

BYTE_OFFSET = 3
"""Token id of byte 0 in a byte-level encoding. Below it: padding, beginning and end."""


def synthetic_prompts(
    config: ExperimentConfig, vocabulary: int, special: Collection[int]
) -> tuple[TokenIds, ...]:
    """
    Prompts of random token ids below *vocabulary* that are not *special*.

    They depend on the dataset's seed and on these arguments alone, not on the platform.
    """
    dataset = config.synthetic_dataset
    allowed = [token for token in range(vocabulary) if token not in special]
    length = min(dataset.input_len, config.max_input_tokens)
    source = random.Random(dataset.seed)
    return tuple(tuple(source.choices(allowed, k=length)) for _ in range(config.n))


def read_dataset(path: str) -> tuple[str, ...]:
    """
    The lines of the text file *path* that are not blank, in order.

    Raises:
        BackendError: It cannot be read, is not UTF-8, or has no such line.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise BackendError(f"dataset {path!r} is no regular file: name one with a prompt a line")
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            lines = tuple(line.rstrip("\n") for line in file if line.strip())
    except UnicodeDecodeError as fault:
        raise BackendError(
            f"dataset {path!r} is not UTF-8 text (byte {fault.start}): save it as UTF-8, one "
            "prompt a line"
        ) from fault
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or str(fault)
        raise BackendError(
            f"dataset {path!r} cannot be read ({reason}): name a text file with one prompt a line"
        ) from fault
    if not lines:
        raise BackendError(f"dataset {path!r} is empty: write one prompt a line")
    return lines


def dataset_prompts(
    config: ExperimentConfig, lines: Sequence[str], encode: Callable[[str], Sequence[int]]
) -> tuple[TokenIds, ...]:
    """
    The first ``config.n`` of *lines* as token ids, cut to ``config.max_input_tokens``.

    Where there are fewer, they are repeated from the first on.

    Raises:
        BackendError: A line cannot be encoded, or has no token.
    """
    encoded = []
    for number, line in enumerate(lines[: config.n], start=1):
        try:
            encoded.append(_cut(encode(line), config.max_input_tokens))
        except Exception as fault:
            reason = " ".join(str(fault).split())
            raise BackendError(
                f"dataset {config.dataset!r}: the tokenizer of {config.model!r} cannot encode "
                f"prompt {number}: {reason}; remove it"
            ) from fault
    return tuple(islice(cycle(encoded), config.n))


def _cut(tokens: Sequence[int], length: int) -> TokenIds:
    if not tokens:
        raise ValueError("it has no token")
    return tuple(tokens[:length])


def encode_bytes(text: str) -> TokenIds:
    """*text* as a beginning token and one for each byte of its UTF-8, for built-in models."""
    return (1, *(BYTE_OFFSET + byte for byte in text.encode()))
