"""What the processes of a run leave behind until they are aggregated."""

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any, Final, Literal

import attrs

from llem.domain.fields import Record, between, quantity, shown, some_text, text
from llem.domain.process import SCHEMA_VERSION
from llem.errors import ResultValidationError

MAX_PROCESSES: Final = 2**20
"""Most processes that a run may be made of."""

_RUN_ID: Final = (r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}", "a plain file name")


@attrs.frozen(kw_only=True, weakref_slot=False)
class RunManifest(Record):
    """
    Which run a spool is of.

    Attributes:
        schema_version: Version of the schema of all that the spool holds.
        run_id: Unique name of the run, which is also that of its folder.
        experiment_id: The experiment.
        num_processes: Processes that the run is made of.
        measurement_config_hash: Hash of their configuration.
        llem_version: The llem that measures.
        places: Where each process leaves what it measured, as ``machine:folder``. Empty: not known.
    """

    schema_version: Literal["2.0"] = SCHEMA_VERSION
    run_id: str = text(*_RUN_ID)
    experiment_id: str = some_text()
    num_processes: int = between(1, MAX_PROCESSES)
    measurement_config_hash: str = text(r"[0-9a-f]{16}", "16 lower-case hex digits")
    llem_version: str | None = None
    places: tuple[str, ...] = ()

    def check_whole(self) -> None:
        """Refuse places of more or fewer processes."""
        if len(self.places) not in (0, self.num_processes):
            raise ResultValidationError(
                f"places must be {self.num_processes}, or none, got {len(self.places)}",
                field="places",
            )


@attrs.frozen(kw_only=True, weakref_slot=False)
class Marker(Record):
    """
    What vouches for the files of one process: written last, once they are durable.

    Attributes:
        run_id: The run.
        process_index: The process.
        files: SHA-256 of each of its files, 64 hex digits, by name.
    """

    run_id: str = text(*_RUN_ID)
    process_index: int = quantity()
    files: Mapping[str, Any]

    def check_whole(self) -> None:
        """Refuse what is no digest."""
        for name, digest in self.files.items():
            if not isinstance(digest, str) or not re.fullmatch(r"[0-9a-f]{64}", digest):
                raise ResultValidationError(
                    f"files must have 64 lower-case hex digits for {shown(name)}, "
                    f"got {shown(digest)}",
                    field="files",
                )


RECORD, CONDITIONS, SAMPLES, MARKER = "record", "conditions", "time series", "marker"

PARTS: Final[Mapping[str, str]] = {
    RECORD: ".json",
    CONDITIONS: ".conditions.json",
    SAMPLES: ".parquet",
    MARKER: ".marker.json",
}
"""What one process leaves, in this order, and how the names of these files end."""


def file_name(process_index: int, part: str) -> str:
    """
    What the file is called in which process *process_index* leaves *part*.

    >>> file_name(3, "conditions")
    'process-00003.conditions.json'
    """
    return f"process-{process_index:05d}{PARTS[part]}"


@attrs.frozen(kw_only=True, weakref_slot=False)
class Found(Record):
    """
    What was found of one process in a spool, whatever it is.

    Attributes:
        index: The process, by the names of its files.
        process_index: The process, by its record. None: that was not read.
        experiment_id: The experiment, by its record. None: that was not read.
        measurement_config_hash: Hash of its configuration. None: its record was not read.
        marker: Its marker. None: it has none, or that cannot be read.
        sha256: SHA-256 of each of its files but the marker, by name.
        faults: Why a part cannot be read, by part.
    """

    index: int = quantity()
    process_index: int | None = quantity(None)
    experiment_id: str | None = None
    measurement_config_hash: str | None = None
    marker: Marker | None = None
    sha256: Mapping[str, Any] = attrs.field(factory=dict)
    faults: Mapping[str, Any] = attrs.field(factory=dict)


def named(indices: Iterable[int]) -> str:
    """
    *indices* of processes, in order, as a message shows them.

    >>> named([9, 3, 5, 6, 7])
    'ranks 3, 5-7, 9'
    """
    ordered = sorted(set(indices))
    runs = [
        [index for _, index in run]
        for _, run in groupby(enumerate(ordered), lambda pair: pair[1] - pair[0])
    ]
    listed = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"rank{'s' if len(ordered) > 1 else ''} {', '.join(listed)}"
