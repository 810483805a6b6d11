"""
Many processes, one result: a run under ``torchrun``, or whatever launches torch.distributed.

Each name loads its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llem.distributed.ending import finish
    from llem.distributed.launch import Launch, launched
    from llem.distributed.ranks import Ranks

_HOME_OF = {
    "Launch": "llem.distributed.launch",
    "Ranks": "llem.distributed.ranks",
    "finish": "llem.distributed.ending",
    "launched": "llem.distributed.launch",
}

__all__ = ["Launch", "Ranks", "finish", "launched"]


if not TYPE_CHECKING:  # or every wrong name would be a right one to a type checker

    def __getattr__(name: str) -> Any:
        if name not in _HOME_OF:
            raise AttributeError(f"module 'llem.distributed' has no attribute {name!r}")
        return getattr(importlib.import_module(_HOME_OF[name]), name)
