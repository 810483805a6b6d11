"""The GPUs that torch uses in this process. A stand-in takes the place of a torch with CUDA."""

import sys
from types import SimpleNamespace

import pytest

from llem.experiment.gpus import gpus_in_use, holds_context, synchronize


class Cuda:
    """Four GPUs, of which this process has memory on those of *held*."""

    def __init__(self, *held: int, current: int = 0, initialised: bool = True) -> None:
        self.held, self.current, self.initialised = held, current, initialised
        self.waited: list[int] = []

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return self.initialised

    def device_count(self) -> int:
        return 4

    def current_device(self) -> int:
        return self.current

    def memory_reserved(self, ordinal: int) -> int:
        return 2**21 if ordinal in self.held else 0

    def get_device_properties(self, ordinal: int) -> SimpleNamespace:
        return SimpleNamespace(uuid=f"uuid-{ordinal}")

    def synchronize(self, ordinal: int) -> None:
        self.waited.append(ordinal)


@pytest.fixture
def torch(monkeypatch):
    def put(cuda: Cuda) -> Cuda:
        monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
        return cuda

    return put


@pytest.mark.parametrize(
    ("cuda", "used", "waited"),
    [
        (Cuda(1, 2), ("uuid-1", "uuid-2"), [0, 1, 2]),
        (Cuda(3, current=3), ("uuid-3",), [3]),
        (Cuda(current=2), ("uuid-2",), [2]),
        (Cuda(1, initialised=False), None, []),
    ],
)
def test_what_torch_has_memory_on_is_in_use(torch, cuda, used, waited) -> None:
    """Its current GPU where it has none on any. All are waited for, the current one too."""
    torch(cuda)

    synchronize()

    assert gpus_in_use() == used
    assert cuda.waited == waited
    assert holds_context() is cuda.initialised


def test_a_torch_that_does_not_tell_uuids(torch, monkeypatch) -> None:
    """It is older than those."""
    cuda = torch(Cuda(1))
    monkeypatch.setattr(cuda, "get_device_properties", lambda _: SimpleNamespace(name="GPU"))

    assert gpus_in_use() is None


def test_without_torch(monkeypatch) -> None:
    """Nothing is used, and nothing waited for."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)

    synchronize()

    assert gpus_in_use() is None
    assert not holds_context()
    assert "torch" not in sys.modules
