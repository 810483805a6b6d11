"""
A figure recomputed from its evidence: from the record and its time series alone, without hardware.

What is integrated anew goes through the code that measured it, and what follows from the processes
through the code that aggregates them.
"""

from typing import TYPE_CHECKING

from llem.auditing.check import Audit, Check
from llem.auditing.evidence import sampled
from llem.auditing.record import aggregated, chosen, processes, totals
from llem.domain.result import ExperimentResult

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Audit", "Check", "audit"]


def audit(result: ExperimentResult, timeseries: "pa.Table | None") -> Audit:
    """
    Recompute the energy of *result* from its *timeseries*, and what follows from it.

    Checked are, for each device of each process, what its samples give: integral, error bound,
    coverage, longest gap, codes; the rule by which its energy is chosen, and its disagreement with
    the counter; the split into prefill and decode; then all that aggregating the processes gives:
    devices, totals, times, rates. Of the latter, what is a mere copy is named where it differs.

    Args:
        result: A result.
        timeseries: Its time series, as `Store.timeseries` gives it. None: it has none.

    Returns:
        Every figure that was looked at, with what its evidence gives for it.

    Raises:
        SidecarSchemaError: The time series lacks a column, or has times that are not finite.
    """
    checks = (
        *sampled(result, timeseries),
        *chosen(result),
        *processes(result),
        *totals(result),
    )
    differing = {check.name for check in checks if check.agrees is False}
    return Audit(
        checks=(*checks, *(one for one in aggregated(result) if one.name not in differing))
    )
