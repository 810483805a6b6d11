"""One figure of a record held against its evidence."""

import attrs

from llem.domain.energy import DeviceEnergy
from llem.domain.process import RawProcessResult
from llem.domain.result import ExperimentResult

RELATIVE_TOLERANCE = 1e-6
"""What rounding leaves of sums over millions of samples, with room to spare."""

EDGE_TOLERANCE_S = 2e-6
"""The edges of a process are dates, of whole microseconds, and there are two. Unit: s."""


@attrs.frozen(kw_only=True)
class Check:
    """
    One figure of the record, and what its evidence gives for it.

    Attributes:
        name: What is checked: the device, where it is one's, and the field.
        recorded: What the record says. None: nothing.
        recomputed: What comes of the evidence. None: it cannot be recomputed.
        tolerance: How far the two may lie apart. In the unit of the field.
        note: What the figure rests on, or why it cannot be recomputed.
    """

    name: str
    recorded: float | None
    recomputed: float | None
    tolerance: float = 0.0
    note: str = ""

    @property
    def agrees(self) -> bool | None:
        """Whether the two agree. None: there is nothing to compare."""
        if self.recomputed is None:
            return None if self.recorded is None or self.note else False
        return self.recorded is not None and (
            abs(self.recorded - self.recomputed) <= self.tolerance
        )


@attrs.frozen(kw_only=True)
class Audit:
    """
    What came of recomputing a result.

    Attributes:
        checks: Every figure that was looked at.
    """

    checks: tuple[Check, ...]

    @property
    def agrees(self) -> bool:
        """Whether no figure differs from its evidence. Those without evidence do not count."""
        return all(check.agrees is not False for check in self.checks)

    @property
    def complete(self) -> bool:
        """Whether there is evidence for every figure that is recorded."""
        return all(check.agrees is not None or check.recorded is None for check in self.checks)


def alike(
    name: str,
    field: str,
    device: DeviceEnergy,
    found: DeviceEnergy,
    *,
    tolerance: float = 0.0,
    note: str = "",
) -> Check:
    """Whether *field* of *device* is that of *found*."""
    recorded, recomputed = getattr(device, field), getattr(found, field)
    return Check(
        name=f"{name} {field}",
        recorded=recorded,
        recomputed=recomputed,
        tolerance=tolerance + rounding(recorded),
        note=note,
    )


def follows(
    name: str,
    recorded: float | None,
    recomputed: float | None,
    note: str,
    *,
    tolerance: float = 0.0,
) -> Check:
    """Whether a figure is what others of the record give for it."""
    return Check(
        name=name,
        recorded=recorded,
        recomputed=recomputed,
        tolerance=tolerance + rounding(recomputed),
        note=note if recomputed is not None else "",
    )


def applies(name: str, *, recorded: bool, recomputed: bool) -> Check:
    """Whether what is so or not so is what its evidence says."""
    return Check(
        name=name,
        recorded=float(recorded),
        recomputed=float(recomputed),
        note="1 where it is so",
    )


def name_of(result: ExperimentResult, process: RawProcessResult, device: DeviceEnergy) -> str:
    """What a device of a process is called."""
    rank = f"process {process.process_index} " if len(result.process_results) > 1 else ""
    return f"{rank}device {device.gpu_index} ({device.uuid})"


def rounding(value: float | None) -> float:
    """What rounding leaves of *value*."""
    return RELATIVE_TOLERANCE * abs(value or 0.0)
