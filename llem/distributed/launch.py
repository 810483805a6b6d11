"""How this process was launched: alone, or as one of the ranks of a run."""

import os
import reprlib
import sys
from typing import Any

import attrs

from llem.errors import ConfigError


@attrs.frozen(kw_only=True)
class Launch:
    """
    What a launcher of torch.distributed tells a process.

    Attributes:
        rank: Its index among all processes.
        world_size: How many they are.
        address: Where they meet, such as localhost:29500. Empty: it is alone.
        attempt: How often the launcher has started them before.
    """

    rank: int = 0
    world_size: int = 1
    address: str = ""
    attempt: int = 0

    @property
    def is_alone(self) -> bool:
        """Whether nothing launched it."""
        return not self.address


def launched() -> Launch | None:
    """
    What the launcher says, by the variables that ``torchrun`` sets. None: there was none.

    A process group that the program has made itself says it too, and must not say otherwise.

    Raises:
        ConfigError: The variables contradict each other, or are no numbers.
    """
    told, grouped = _by_the_environment(), _by_the_group()
    if grouped is None or told is None:
        return told or grouped
    if (told.rank, told.world_size) != (grouped.rank, grouped.world_size):
        raise ConfigError(
            f"RANK and WORLD_SIZE say rank {told.rank} of {told.world_size}, and the process group "
            f"says rank {grouped.rank} of {grouped.world_size}: unset them, or make it of them"
        )
    return told


def _by_the_group() -> Launch | None:
    distributed: Any = getattr(sys.modules.get("torch"), "distributed", None)
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return Launch(
        rank=distributed.get_rank(), world_size=distributed.get_world_size(), address="group"
    )


def _by_the_environment() -> Launch | None:
    told = [name for name in ("RANK", "WORLD_SIZE") if name in os.environ]
    if not told:
        return None
    if len(told) == 1:
        raise ConfigError(
            f"{told[0]} is set, and of RANK and WORLD_SIZE only that: start all ranks with "
            "torchrun, or unset it"
        )
    rank, world_size = _number("RANK"), _number("WORLD_SIZE")
    if rank >= world_size:
        raise ConfigError(f"RANK is {rank}, and must be less than WORLD_SIZE, {world_size}")
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise ConfigError(
            f"RANK and WORLD_SIZE are set, but {missing[0]} is not: start all ranks with torchrun, "
            "or unset them"
        )
    return Launch(
        rank=rank,
        world_size=world_size,
        address=f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
        attempt=_number("TORCHELASTIC_RESTART_COUNT", "0"),
    )


def _number(name: str, default: str = "") -> int:
    value = os.environ.get(name, default)
    if not (value.isascii() and value.isdecimal() and len(value) < 10):
        raise ConfigError(
            f"{name} must be a number, 0 or more, got {reprlib.repr(value)}: torchrun sets it"
        )
    return int(value)
