"""
Where results are kept: on disk by `ResultStore`, in memory by `MemoryStore`. `Spool` keeps what the
processes of a run leave until they are aggregated.
"""

from llem.store.files import load
from llem.store.filesystem import ResultStore
from llem.store.memory import MemoryStore
from llem.store.merging import merged
from llem.store.parts import Part
from llem.store.repair import Moved, Repair
from llem.store.spool import Spool
from llem.store.verify import StoreFault, Verification

__all__ = [
    "MemoryStore",
    "Moved",
    "Part",
    "Repair",
    "ResultStore",
    "Spool",
    "StoreFault",
    "Verification",
    "load",
    "merged",
]
