"""The columns of a time series: the one format of raw samples, in memory and in the sidecar."""

from typing import Literal

import attrs

from llem.domain.energy import DeviceEnergy
from llem.domain.process import RawProcessResult
from llem.domain.result import ExperimentResult

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
microseconds from the record's ``start_time``. Of several processes it is a JSON object with such
an array for each, by ``process_index``. With it prefill and decode are told apart anew.
"""

MAX_REQUESTS = 10_000
"""Requests that are told at most, of all processes: the footer of a file is not compressed."""

STRIDE_KEY = b"llem.stride"
"""
Where it tells that only every k-th tick of each process is kept, k > 1 in decimal, and the
``period_s`` of `TIMING_KEY` is k times what it was. Figures were made of all ticks, and do not
follow from what is kept.
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


def devices_of_rows(
    result: ExperimentResult,
) -> tuple[tuple[int, RawProcessResult, DeviceEnergy], ...]:
    """
    Each device of each process of *result*, after the ``gpu_index`` that its rows have.

    That is its own where no two devices of the processes have the same, even where two processes
    metered one GPU. Otherwise it is that of the result's device with the same UUID.
    """
    metered = [
        (process, device) for process in result.process_results for device in process.devices
    ]
    if len({device.gpu_index for _, device in metered}) == len(metered):
        return tuple((device.gpu_index, process, device) for process, device in metered)
    index_of = {device.uuid: device.gpu_index for device in result.devices}
    return tuple(
        (index_of.get(device.uuid, device.gpu_index), process, device)
        for process, device in metered
    )
