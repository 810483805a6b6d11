"""What CUDA shows, asked of a library compiled from C, or of a torch that uses CUDA."""

import os
import shutil
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from llem.measure import visible
from llem.measure.cuda_order import shown_uuids
from llem.measure.nvml_client import NvmlClient
from llem.measure.visible import ask_cuda

FIRST = "8932f937-d72c-4106-c12f-20bd9faed9f6"
SECOND = "00000000-0000-0000-0000-0000000000ff"

Compiled = Callable[..., Path]


def digits(*uuids: str) -> str:
    return ",".join(uuid.replace("-", "") for uuid in uuids)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    """Compiles fake_cuda.c with flags into a folder of its own."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")

    def build(*flags: str) -> Path:
        library = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
        source = Path(__file__).with_name("fake_cuda.c")
        flags = ("-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags)
        subprocess.run([compiler, *flags, "-o", library, source], check=True)
        return library

    return build


@pytest.fixture(scope="session")
def library(compiled: Compiled) -> Path:
    return compiled()


@pytest.fixture
def cuda(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Child processes find the library, and it shows two GPUs. Gives who initialised it."""
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    monkeypatch.setenv("FAKE_CUDA", digits(SECOND, FIRST))
    monkeypatch.setenv("FAKE_CUDA_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def fail(*args: object) -> None:
    raise RuntimeError("CUDA error: unknown error")


def fake_torch(uuids: list[str], *, initialised: bool = True) -> types.SimpleNamespace:
    return types.SimpleNamespace(
        cuda=types.SimpleNamespace(
            is_initialized=lambda: initialised,
            device_count=lambda: len(uuids),
            get_device_properties=lambda ordinal: types.SimpleNamespace(uuid=uuids[ordinal]),
        )
    )


def test_child_tells_the_order(cuda: Path) -> None:
    """CUDA's UUIDs come in CUDA's order, as torch writes them."""
    assert ask_cuda() == (SECOND, FIRST)


def test_cuda_is_initialised_elsewhere(cuda: Path) -> None:
    """This process could fork and use CUDA in the child: it has not called cuInit."""
    ask_cuda()
    (pid,) = cuda.read_text().split()
    assert int(pid) != os.getpid()


def test_child_runs_no_code_of_the_user(cuda: Path, tmp_path: Path, monkeypatch) -> None:
    """Neither the working directory nor the environment chooses what it imports."""
    (tmp_path / "ctypes.py").write_text("raise SystemExit(1)")
    (tmp_path / "sitecustomize.py").write_text("print('noise')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert ask_cuda() == (SECOND, FIRST)


@pytest.mark.parametrize(
    "codes", ["cuInit=999", "cuDeviceGetCount=3", "cuDeviceGet=101", "cuDeviceGetUuid_v2=101"]
)
def test_no_answer(cuda: Path, library: Path, monkeypatch, codes: str) -> None:
    """A call that fails leaves no part of an answer, and says which it was."""
    monkeypatch.setenv("FAKE_CUDA_CODES", codes)
    function, _, code = codes.partition("=")
    with pytest.raises(OSError, match=rf"{function.removesuffix('_v2')}\): error {code}$"):
        shown_uuids(os.fspath(library))
    assert ask_cuda() is None


def test_no_device(cuda: Path, monkeypatch) -> None:
    monkeypatch.delenv("FAKE_CUDA")
    assert ask_cuda() is None


def test_no_library(cuda: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "libcuda.so.1").write_text("no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert ask_cuda() is None
    with pytest.raises(OSError, match="libcuda"):
        shown_uuids(os.fspath(tmp_path / "libcuda.so.1"))


@pytest.mark.parametrize("interpreter", ["", None, "/no/such/python"])
def test_no_interpreter(cuda: Path, monkeypatch, interpreter: str | None) -> None:
    """A program that embeds Python may know of no interpreter to start."""
    monkeypatch.setattr(sys, "executable", interpreter)
    assert ask_cuda() is None


def test_driver_that_hangs(cuda: Path, monkeypatch) -> None:
    """The wait for CUDA has an end."""
    monkeypatch.setattr(visible, "CUDA_TIMEOUT_S", 0.5)
    monkeypatch.setenv("FAKE_CUDA_SLEEP_S", "20")
    began = time.monotonic()
    assert ask_cuda() is None
    assert time.monotonic() - began < 10


def test_instances_have_their_own_uuid(library: Path, monkeypatch) -> None:
    """Where CUDA has a UUID of a MIG instance and one of its GPU, the instance's is given."""
    monkeypatch.setenv("FAKE_CUDA", digits(FIRST))
    monkeypatch.setenv("FAKE_CUDA_PARENTS", digits(SECOND))
    assert shown_uuids(os.fspath(library)) == [FIRST]


def test_old_driver(compiled: Compiled, monkeypatch) -> None:
    """A driver without the newer function gives the UUIDs of GPUs."""
    monkeypatch.setenv("FAKE_CUDA", digits(FIRST))
    monkeypatch.setenv("FAKE_CUDA_PARENTS", digits(SECOND))
    assert shown_uuids(os.fspath(compiled("-DOLD"))) == [SECOND]


def test_torch_answers_first(cuda: Path, monkeypatch) -> None:
    """What torch uses in this process counts, and no child is started."""
    monkeypatch.setitem(sys.modules, "torch", fake_torch([FIRST, SECOND]))
    assert ask_cuda() == (FIRST, SECOND)
    assert not cuda.exists()


@pytest.mark.parametrize(
    "torch",
    [
        None,
        types.SimpleNamespace(),
        fake_torch([FIRST], initialised=False),
        fake_torch([]),
        types.SimpleNamespace(
            cuda=types.SimpleNamespace(
                is_initialized=lambda: True,
                device_count=lambda: 1,
                get_device_properties=lambda ordinal: types.SimpleNamespace(),
            )
        ),
        types.SimpleNamespace(
            cuda=types.SimpleNamespace(is_initialized=lambda: True, device_count=fail)
        ),
    ],
    ids=["importing", "without CUDA", "not using CUDA", "no device", "without UUIDs", "failing"],
)
def test_torch_that_does_not_know(cuda: Path, monkeypatch, torch: object) -> None:
    """Then the child is asked."""
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert ask_cuda() == (SECOND, FIRST)


def test_torch_is_not_imported(cuda: Path) -> None:
    ask_cuda()
    assert "torch" not in sys.modules


def test_from_cuda_to_nvml(driver, cuda: Path, monkeypatch) -> None:
    """The GPUs of unlike ones that a process without torch gets are CUDA's, in CUDA's order."""
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    driver.set(count=3, gpu0__name="NVIDIA Slow", gpu1__uuid=f"GPU-{FIRST}")
    driver.set(gpu2__uuid=f"GPU-{SECOND}")
    client = NvmlClient()
    found = client.gpus()
    client.close()
    assert [gpu.uuid for gpu in found] == [f"GPU-{SECOND}", f"GPU-{FIRST}"]
