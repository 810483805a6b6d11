"""Every store of llem keeps the published contract."""

import pytest

from llem.store import MemoryStore, ResultStore
from llem.testing import *  # noqa: F403


@pytest.fixture(scope="module", params=["files", "memory"])
def open_store(request, tmp_path_factory):
    """Opens an empty store."""
    if request.param == "memory":
        return MemoryStore
    return lambda: ResultStore(tmp_path_factory.mktemp("root"))
