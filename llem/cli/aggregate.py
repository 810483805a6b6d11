"""``llem aggregate``: finish a run of many processes whose state was kept."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from llem.cli.kept import tell_kept
from llem.cli.message import say
from llem.cli.output import (
    AsJson,
    writing_store,
)
from llem.distributed import finish
from llem.errors import ResultNotFoundError
from llem.store import Spool
from llem.store.layout import STATE_NAME

MAX_NAMED = 5
"""Folders of runs that a message names."""


def aggregate_verb(
    folder: Path,
    /,
    *,
    root: Annotated[Path | None, Parameter(name="--root")] = None,
    allow_incomplete: bool = False,
    as_json: AsJson = False,
) -> int:
    """
    Finish a run whose processes have left what they measured.

    Parameters
    ----------
    folder
        Folder of the run, below `.state` of its root, as the run that failed has named it.
    root
        Where the result is kept. By default where the run was to keep it.
    allow_incomplete
        Make a result without processes that left nothing, or nothing whole. It says which, and
        what the others left stays.
    """
    spool = _spool_at(folder)
    store = writing_store(spool.root if root is None else root)
    kept = finish(spool, store, allow_incomplete=allow_incomplete)
    tell_kept(kept, as_json=as_json)
    if kept.result.aggregation.missing_processes:
        say(
            f"what there is of the run stays in {spool.folder}: call `llem aggregate` again once "
            "more of it is there, or take the folder away"
        )
    return 0


def _spool_at(folder: Path) -> Spool:
    """
    What the processes of a run left in *folder*.

    Raises:
        ResultNotFoundError: It has such folders in it, and is none.
    """
    states = folder if folder.name == STATE_NAME else folder / STATE_NAME
    runs = sorted(states.glob("*/")) if states.is_dir() else []
    if runs:
        raise ResultNotFoundError(
            f"{folder}: is no folder of a run: name one of {', '.join(map(str, runs[:MAX_NAMED]))}"
            + ("" if len(runs) <= MAX_NAMED else f" and {len(runs) - MAX_NAMED} more")
        )
    return Spool(folder)
