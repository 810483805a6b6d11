"""What runs the model. A backend's libraries are imported only when it is opened."""

from collections.abc import Callable, Mapping

from llem.errors import BackendError
from llem.protocols import InferenceBackend


def open_backend(name: str) -> InferenceBackend:
    """
    The backend that the configuration calls *name*, with no model loaded.

    Raises:
        BackendError: There is no such backend, or its libraries are not installed.
    """
    opener = _OPENERS.get(name)
    if opener is None:
        raise BackendError(f"backend {name!r} is not known: use one of {', '.join(_OPENERS)}")
    return opener()


def _open_pytorch() -> InferenceBackend:
    try:
        from llem.backends.pytorch import PytorchBackend
    except (ImportError, OSError) as fault:
        raise BackendError(
            f"backend 'pytorch' needs torch and transformers ({' '.join(str(fault).split())}): "
            "pip install torch transformers"
        ) from fault
    return PytorchBackend()


_OPENERS: Mapping[str, Callable[[], InferenceBackend]] = {"pytorch": _open_pytorch}
