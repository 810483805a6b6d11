"""What all tests share."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("llem.testing")

settings.register_profile(
    "llem",
    deadline=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("llem")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of its own: no test reads what the user's runs left, or leaves them any."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def no_stray_driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fake driver that one test has loaded answers to the real one's name in all that follow."""
    if "measure" in request.path.parts or request.node.get_closest_marker("gpu"):
        return

    def missing(name: str) -> object:
        raise OSError(name)

    monkeypatch.setattr(pynvml, "CDLL", missing)
    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


@pytest.fixture(scope="session")
def fake_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A libnvidia-ml.so.1 compiled from fake_nvml.c, in a folder of its own."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    library = tmp_path_factory.mktemp("driver") / "libnvidia-ml.so.1"
    source = Path(__file__).parent / "measure" / "fake_nvml.c"
    flags = ["-shared", "-fPIC", "-O1", "-pthread", "-Wall", "-Wextra", "-Werror"]
    soname = "-Wl,-soname,libnvidia-ml.so.1"
    subprocess.run([compiler, *flags, soname, "-o", library, source, "-lm"], check=True)
    return library
