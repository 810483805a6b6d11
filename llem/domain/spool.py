"""What the processes of a run leave behind until they are aggregated."""

from collections.abc import Mapping
from typing import Any

import attrs

from llem.domain.fields import Record, at_least, quantity, some_text, text


@attrs.frozen(kw_only=True, weakref_slot=False)
class RunManifest(Record):
    """
    Which run a spool is of.

    Attributes:
        run_id: Unique name of the run, which is also that of its folder.
        experiment_id: The experiment.
        num_processes: Processes that the run is made of.
        measurement_config_hash: Hash of their configuration.
        llem_version: The llem that measures.
    """

    run_id: str = text(r"[0-9A-Za-z][0-9A-Za-z._-]{0,127}", "a plain file name")
    experiment_id: str = some_text()
    num_processes: int = at_least(1)
    measurement_config_hash: str = text(r"[0-9a-f]{16}", "16 lower-case hex digits")
    llem_version: str | None = None


@attrs.frozen(kw_only=True, weakref_slot=False)
class Marker(Record):
    """
    What vouches for the files of one process: written last, once they are durable.

    Attributes:
        run_id: The run.
        process_index: The process.
        files: SHA-256 of each of its files, 64 hex digits, by name.
    """

    run_id: str
    process_index: int = quantity()
    files: Mapping[str, Any]
