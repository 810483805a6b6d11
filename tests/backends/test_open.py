"""Opening a backend by the name in the configuration."""

import subprocess
import sys

import pytest

from llem.backends import open_backend
from llem.errors import BackendError
from llem.protocols import InferenceBackend


def test_opened_by_name():
    """The name in the configuration opens the backend of that name."""
    pytest.importorskip("torch")
    opened = open_backend("pytorch")

    assert isinstance(opened, InferenceBackend)
    assert opened.name == "pytorch"


def test_unknown_name_lists_the_known_ones():
    """A wrong name is met with the right ones."""
    with pytest.raises(BackendError, match=r"backend 'vlm' is not known: use one of pytorch"):
        open_backend("vlm")


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_missing_library_says_what_to_install(monkeypatch, library):
    """Without its libraries a backend says how to get them."""
    for module in list(sys.modules):
        if module.startswith("llem.backends."):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(BackendError, match=rf"{library}.*pip install torch transformers"):
        open_backend("pytorch")


def test_import_is_light():
    """Only opening a backend imports its libraries."""
    code = "import sys, llem.backends; print(*sorted({'torch', 'transformers'} & set(sys.modules)))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == ""
