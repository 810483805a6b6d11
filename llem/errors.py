"""
Every exception and warning of llem.

An exception is a `LlemError`, and also the builtin that a caller would already catch::

    LlemError
    ├── ResultNotFoundError    (FileNotFoundError)   no result lies there
    ├── ResultAccessError      (OSError)             something that may not be read lies there
    │   └── NoMemoryError                            there is no memory to read it
    ├── MalformedResultError   (ValueError)          the text is no JSON object
    ├── SchemaVersionError     (ValueError)          a schema this llem does not read
    ├── ResultValidationError  (ValueError)          values that no result may hold
    │   └── SidecarPathError                         `timeseries` names something else
    ├── ResultIntegrityError   (ValueError)          the content is not what was written
    ├── SidecarIntegrityError  (ValueError)          the sidecar's bytes are not what was written
    ├── SidecarSchemaError     (ValueError)          the time series has other columns
    ├── InvalidNameError       (ValueError)          what was given cannot name a result
    ├── StoreWriteError        (OSError)             nothing became visible
    ├── CommitUnknownError     (OSError)             it may have become visible or not
    ├── AggregationError       (ValueError)          these processes do not make one result
    │   └── IncompleteRunError                       processes are missing, or not whole
    ├── MeterError             (RuntimeError)        energy cannot be read as asked
    ├── BackendError           (RuntimeError)        the model cannot be loaded or run
    └── ConfigError            (ValueError)          a setting that no run can have

    LlemWarning (UserWarning)
    ├── SidecarMissingWarning                        the record names a sidecar that is gone
    ├── SidecarUnverifiedWarning                     no digest was recorded for the sidecar
    └── NaiveTimeWarning                             times without a zone were read as UTC
"""

from collections.abc import Iterable


class LlemError(Exception):
    """
    Whatever llem refuses or fails to do. Its text is one message for a person.

    Attributes:
        over_limit: Whether all that is known against a file is that it is over the reader's limit.
    """

    over_limit: bool = False


class ResultNotFoundError(LlemError, FileNotFoundError):
    """No result lies where one was looked for."""


class ResultAccessError(LlemError, OSError):
    """Something lies there, but it is no regular file, or it may not be read."""


class NoMemoryError(ResultAccessError):
    """There is no memory to read it. That says nothing of what lies there."""


class MalformedResultError(LlemError, ValueError):
    """The text is no JSON object, or larger than the limit."""


class SchemaVersionError(LlemError, ValueError):
    """The document says a schema version that this llem does not read."""


class ResultValidationError(LlemError, ValueError):
    """
    Values that no record may hold.

    Attributes:
        field: The field at fault, where a record was built from values. None for a document.
        faults: Every fault as (problem, path), where a document was read. The path is a
            JSONPath such as ``$.process_results[3].energy_metrics.total_energy_j``.
    """

    def __init__(
        self, message: str, *, field: str | None = None, faults: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__(message)
        self.field = field
        self.faults = tuple(faults)


class SidecarPathError(ResultValidationError):
    """`timeseries` names something other than the sidecar beside the record."""


class ResultIntegrityError(LlemError, ValueError):
    """The content of a result is not what was written."""


class SidecarIntegrityError(LlemError, ValueError):
    """The bytes of a sidecar are not what was written, are no Parquet, or exceed a limit."""


class SidecarSchemaError(LlemError, ValueError):
    """A time series whose columns are not the four that a sidecar holds."""


class InvalidNameError(LlemError, ValueError):
    """What was given cannot name a result."""


class StoreWriteError(LlemError, OSError):
    """A result could not be written, removed or moved aside. Nothing became visible, or went."""


class CommitUnknownError(LlemError, OSError):
    """A result was written or went, but whether that outlives a power cut is not known."""


class AggregationError(LlemError, ValueError):
    """These processes do not make one result."""


class IncompleteRunError(AggregationError):
    """Processes of a run are missing, or what they left is not whole."""


class MeterError(LlemError, RuntimeError):
    """Energy cannot be read as asked."""


class BackendError(LlemError, RuntimeError):
    """The model cannot be loaded or run."""


class ConfigError(LlemError, ValueError):
    """
    A setting that no run can have.

    Attributes:
        field: The field at fault, or None.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class LlemWarning(UserWarning):
    """Whatever llem warns of through `warnings`."""


class SidecarMissingWarning(LlemWarning):
    """The record names a time series that does not lie beside it."""


class SidecarUnverifiedWarning(LlemWarning):
    """No digest was recorded for a sidecar, so its bytes are taken on trust."""


class NaiveTimeWarning(LlemWarning):
    """Times without a zone were read as UTC."""
