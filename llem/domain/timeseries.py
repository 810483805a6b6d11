"""The columns of a time series: the one format of raw samples, in memory and in the sidecar."""

from typing import Literal

import attrs

TIMESERIES_NAME = "timeseries.parquet"
"""The one name that a sidecar has."""

TIMING_KEY = b"llem.timing"
"""
Where the metadata of a time series tells how its devices were read: a JSON object, index ->
``limit_w``, ``period_s``, ``refresh_s``, ``window_s``, ``counter_refresh_s``, ``standstill_s``,
``spread_s``. With it an error bound is computed anew.
"""

REQUESTS_KEY = b"llem.requests"
"""
Where it tells when requests ran: a JSON array of [start, first token or null, end], in whole
microseconds from the record's ``start_time``. With it prefill and decode are told apart anew.
"""


@attrs.frozen(kw_only=True)
class Column:
    """
    One column.

    Attributes:
        name: Its name.
        type: Its Arrow type as written.
        kind: The kind of type that is read, of whatever width.
        unit: Unit of the values. Empty: none.
        nullable: Whether a value may be missing, as a reading that failed.
    """

    name: str
    type: Literal["float64", "float32", "int32"]
    kind: Literal["floating", "integer"]
    unit: str
    nullable: bool


COLUMNS = (
    Column(name="timestamp_s", type="float64", kind="floating", unit="s", nullable=False),
    Column(name="gpu_power_w", type="float32", kind="floating", unit="W", nullable=True),
    Column(name="gpu_temperature_c", type="float32", kind="floating", unit="°C", nullable=True),
    Column(name="gpu_index", type="int32", kind="integer", unit="", nullable=False),
)
"""
The four columns, in order. ``timestamp_s`` counts from the record's ``start_time``; one value is
shared by all devices of a tick, and rows are in tick order.
"""
