"""What came of a document: a record, what has no home in it, and what was assumed."""

import json
import re
from typing import Any

import attrs

from llem.domain.result import ExperimentResult

MOST_NAMED = 24
"""Most fields without a home that a record names; the import lists each with its value."""


@attrs.frozen(kw_only=True)
class Unmapped:
    """
    A field of a document that the record has no home for.

    Attributes:
        path: Where it stands, as ``process_results[0].cli_overrides.batch_size``; in a file beside
            the document the name of that file comes first, as ``config.json: provenance``.
        value: Its value, as JSON.
        reason: Why it was left out, where its name alone does not say.
    """

    path: str
    value: str
    reason: str | None = None


@attrs.frozen(kw_only=True)
class Imported:
    """
    A document of another writer, or an older one, as a record.

    Attributes:
        as_read: The record that the document spells out.
        format: What it was written in, as ``llenergymeasure 3.0``. ``llem 2.0``: nothing was
            converted.
        unmapped: Every field that the record has no home for.
        notes: What was assumed or worked out, each beginning with the field.
        samples_lost: Why the time series that the document names is not kept. None: it is, or
            there is none.
    """

    as_read: ExperimentResult
    format: str
    unmapped: tuple[Unmapped, ...] = ()
    notes: tuple[str, ...] = ()
    samples_lost: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether the document was a current one of llem, so that nothing was converted."""
        return self.format == OURS

    @property
    def result(self) -> ExperimentResult:
        """The record to keep: where it was converted, a measurement warning says from what."""
        if self.is_ours and not self.unmapped and self.samples_lost is None:
            return self.as_read
        told = (*self.as_read.measurement_warnings, self._provenance())
        return attrs.evolve(self.as_read, measurement_warnings=told)

    def without_timeseries(self, reason: str) -> "Imported":
        """The same without the time series that the document names; *reason* says why."""
        as_read = attrs.evolve(self.as_read, timeseries=None)
        return attrs.evolve(self, as_read=as_read, samples_lost=reason)

    def _provenance(self) -> str:
        parts = [f"from {self.format}", *self.notes]
        if self.samples_lost is not None:
            parts.append("its time series was not kept: keep the source")
        if self.unmapped:
            names = [*dict.fromkeys(_in_short(field.path) for field in self.unmapped)]
            more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
            listed = ", ".join(names[:MOST_NAMED]) + more
            parts.append(f"there is no home for {listed}: keep the source")
        return f"imported: {'; '.join(parts)}"


OURS = "llem 2.0"
"""The format of a document that needs no conversion."""


def unmapped(path: str, value: Any, reason: str | None = None) -> Unmapped:
    """The field *path* of a document, of the JSON value *value*."""
    return Unmapped(path=path, value=json.dumps(value, ensure_ascii=False), reason=reason)


def _in_short(path: str) -> str:
    """*path* without places in arrays, and no deeper than two names."""
    return ".".join(re.sub(r"\[\d+\]", "", path).split(".")[:2])[:80]
