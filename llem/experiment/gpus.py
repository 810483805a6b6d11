"""The GPUs that this process uses, as far as torch knows: other engines say it themselves."""

import sys
from typing import Any


def holds_context() -> bool:
    """Whether this process has a CUDA context, as far as torch knows."""
    cuda = _cuda()
    return cuda is not None and cuda.is_available() and cuda.is_initialized()


def gpus_in_use() -> tuple[str, ...] | None:
    """
    The UUIDs of the GPUs that torch has memory on, or else of its current one.

    None: torch uses no GPU in this process, or is older than their UUIDs.
    """
    if not holds_context():
        return None
    cuda = _cuda()
    ordinals = _with_memory(cuda) or [cuda.current_device()]
    uuids = [getattr(cuda.get_device_properties(i), "uuid", None) for i in ordinals]
    return None if None in uuids else tuple(map(str, uuids))


def synchronize() -> None:
    """Return once all work of torch in this process is done, on each GPU that it uses."""
    if holds_context():
        cuda = _cuda()
        for ordinal in sorted({cuda.current_device(), *_with_memory(cuda)}):
            cuda.synchronize(ordinal)


def _cuda() -> Any:
    torch: Any = sys.modules.get("torch")
    return None if torch is None else torch.cuda


def _with_memory(cuda: Any) -> list[int]:
    """Asking makes no context: of a GPU that is not used there is nothing reserved."""
    return [i for i in range(cuda.device_count()) if cuda.memory_reserved(i)]
