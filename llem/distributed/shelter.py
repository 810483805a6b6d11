"""What a rank measured, left in the folder of the run, or elsewhere where that cannot be."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from llem.domain.conditions import Conditions
from llem.domain.process import RawProcessResult
from llem.domain.spool import RunManifest
from llem.errors import LlemError, StoreWriteError
from llem.store import Spool

if TYPE_CHECKING:
    import pyarrow as pa

LOCK_S = 30.0
"""How long a rank waits for who holds the folder of the run. Unit: s."""


def leave(
    spool: Spool,
    manifest: RunManifest,
    process: RawProcessResult,
    conditions: Conditions,
    timeseries: "pa.Table | None",
    *,
    at_work: ExitStack,
) -> None:
    """
    Leave in *spool* what one process measured, and be known to be at work until *at_work* is over.

    Raises:
        StoreWriteError: It could not be left there. The text says where it was put instead, or that
            there was room for it nowhere.
    """
    try:
        at_work.enter_context(spool.taking_part(manifest, wait_s=LOCK_S))
        spool.leave(process, conditions, timeseries)
    except (LlemError, OSError) as fault:
        raise _sheltered(fault, manifest, process, conditions, timeseries) from None


def _sheltered(
    fault: Exception,
    manifest: RunManifest,
    process: RawProcessResult,
    conditions: Conditions,
    timeseries: "pa.Table | None",
) -> StoreWriteError:
    rank = process.process_index
    # Samples may be what was at fault: the record alone is better than nothing.
    for samples, kept in ((timeseries, ""), (None, ", without its samples,")):
        for place in dict.fromkeys([tempfile.gettempdir(), os.path.expanduser("~")]):
            with suppress(LlemError, OSError), _new_folder(place) as root:
                shelter = Spool.of(root, manifest.run_id)
                shelter.begin(manifest)
                shelter.leave(process, conditions, samples)
                return StoreWriteError(
                    f"{fault}; what rank {rank} measured{kept} was put into {shelter.folder}: copy "
                    f"its files {_to(rank, manifest)}, and call `llem aggregate` there"
                )
    return StoreWriteError(
        f"{fault}; nor could it be put elsewhere, so that what rank {rank} measured is lost: make "
        "room for it, or name another place by TMPDIR, and run again"
    )


def _to(rank: int, manifest: RunManifest) -> str:
    """Where what lies elsewhere belongs."""
    where = f"into {manifest.places[0]}, where rank 0 leaves its own"
    if manifest.places[rank] != manifest.places[0]:
        return where
    return f"{where}, once that can be written, or those of the other ranks to them"


@contextmanager
def _new_folder(place: str) -> Iterator[str]:
    """A new folder in *place*, which is gone where the block fails."""
    folder = tempfile.mkdtemp(prefix="llem-", dir=place)
    try:
        yield folder
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
