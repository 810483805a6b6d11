"""Where results are kept: on disk by `ResultStore`, in memory by `MemoryStore`."""

from llem.store.files import load
from llem.store.filesystem import ResultStore
from llem.store.memory import MemoryStore
from llem.store.repair import Moved, Repair
from llem.store.verify import StoreFault, Verification

__all__ = [
    "MemoryStore",
    "Moved",
    "Repair",
    "ResultStore",
    "StoreFault",
    "Verification",
    "load",
]
