"""The sidecar: a time series as Parquet bytes, and back from bytes that may be anything."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import attrs

from llem.domain.energy import DeviceEnergy
from llem.domain.process import SCHEMA_VERSION, RawProcessResult
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import devices_of_rows
from llem.errors import SidecarSchemaError
from llem.store.blocks import BlockWriter, SeriesFile, encoded, opened_series, readable, rows_of
from llem.store.columns import (
    KEPT,
    RUN_KEY,
    as_written,
    check_nulls,
    check_rows,
    check_run,
    check_schema,
    schema_of,
)

if TYPE_CHECKING:
    import pyarrow as pa

MAX_ROWS = 10_000_000
"""Most rows that are read unless a caller raises the limit."""


def read_table(
    timeseries: "pa.Table | str | os.PathLike[str]", max_rows: int, *, experiment_id: str
) -> "pa.Table":
    """
    The time series that a caller gave, a table or the path of a Parquet file.

    Args:
        timeseries: The table, or the path.
        max_rows: Most rows that are taken.
        experiment_id: The run that it is to be of, which a file may contradict.

    Raises:
        SidecarSchemaError: Its columns are not the four of a time series, or hold what no meter
            gives: values that are not finite, times that decrease, a negative index.
        SidecarIntegrityError: It has more than *max_rows* rows, or the file is no Parquet, or says
            that it is of another run.
        ResultNotFoundError: There is no such file.
        ResultAccessError: It is no regular file, or may not be read.
    """
    with opened(timeseries, max_rows, experiment_id=experiment_id) as series:
        return _whole(series) if isinstance(series, SeriesFile) else series


@contextlib.contextmanager
def opened(
    timeseries: "pa.Table | str | os.PathLike[str]", max_rows: int, *, experiment_id: str
) -> Iterator["pa.Table | SeriesFile"]:
    """
    The time series that a caller gave: a table that was checked, or a file open in the block.

    Of a file it is the footer that was checked. Its values are, as they are read.

    Raises:
        LlemError: Whatever `read_table` raises.
    """
    import pyarrow as pa

    if isinstance(timeseries, str | os.PathLike):
        with opened_series(os.fspath(timeseries), max_rows) as file:
            check_run(file.told, file.source, experiment_id)
            yield file
    elif isinstance(timeseries, pa.Table):
        source = "timeseries"
        check_schema(timeseries.schema, source)
        check_rows(timeseries.num_rows, source, max_rows)
        check_nulls(timeseries, source)
        yield as_written(timeseries, source)
    else:
        raise SidecarSchemaError(
            f"timeseries must be a pyarrow.Table or the path of a Parquet file, "
            f"got {type(timeseries).__name__}"
        )


def _whole(file: SeriesFile) -> "pa.Table":
    import pyarrow as pa

    table = pa.concat_tables([schema_of().empty_table(), *file.blocks()])
    return table.replace_schema_metadata(_kept(file.told))


@attrs.frozen(kw_only=True)
class Heading:
    """
    Whose samples a sidecar says that it holds.

    Attributes:
        experiment_id: The run.
        start_time: What its times are counted from.
        devices: What each ``gpu_index`` stands for.
    """

    experiment_id: str
    start_time: datetime
    devices: Mapping[str, Mapping[str, Any]]


def heading_of(result: ExperimentResult) -> Heading:
    """The heading of the time series of *result*: of several processes, whose each device is."""
    metered = devices_of_rows(result)
    indices = {index for index, _, _ in metered}
    if len(result.process_results) < 2 or len(indices) < len(metered):
        devices = {str(device.gpu_index): _described(device) for device in result.devices}
    else:
        devices = {
            str(index): _described(device) | {"process_index": process.process_index}
            for index, process, device in metered
        }
    return Heading(
        experiment_id=result.experiment_id, start_time=result.start_time, devices=devices
    )


def heading_of_piece(process: RawProcessResult, start_time: datetime) -> Heading:
    """The heading of what one process of a run sampled, from *start_time* on."""
    return Heading(
        experiment_id=process.experiment_id,
        start_time=start_time,
        devices={str(device.gpu_index): _described(device) for device in process.devices},
    )


def encode(table: "pa.Table", heading: Heading) -> bytes:
    """The Parquet bytes of *table*, with *heading*."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with BlockWriter(sink, _schema(heading, table.schema.metadata or {})) as writer:
        writer.write(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def encoded_anew(file: SeriesFile, heading: Heading) -> Iterator[bytes]:
    """What `encode` gives of the rows of *file*, part by part, in bounded memory."""
    return encoded(file.blocks(), _schema(heading, file.told))


def decode(content: bytes, *, source: str, max_rows: int) -> "pa.Table":
    """
    The table whose Parquet bytes *content* is.

    Columns, then the number of rows, are looked at before a page is decoded.

    Raises:
        SidecarIntegrityError: It is no Parquet, or has more than *max_rows* rows.
        SidecarSchemaError: Its columns are not the four of a time series.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with readable(source):
        file = pq.ParquetFile(pa.BufferReader(content))
        rows, schema = rows_of(file.metadata), file.schema_arrow
    check_schema(schema, source)
    check_rows(rows, source, max_rows)
    with readable(source):
        table = file.read(use_threads=False)
    check_nulls(table, source)
    return table


def _schema(heading: Heading, told: dict[bytes, bytes]) -> "pa.Schema":
    metadata = {
        "llem.schema_version": SCHEMA_VERSION,
        RUN_KEY: heading.experiment_id,
        "llem.start_time": heading.start_time.isoformat(),
        "llem.devices": json.dumps(heading.devices),
    }
    return schema_of(metadata | _kept(told))


def _kept(told: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {key: told[key] for key in KEPT if key in told}


def _described(device: DeviceEnergy) -> dict[str, Any]:
    return {
        "uuid": device.uuid,
        "name": device.name,
        "sensor": device.sensor.value,
        "scope": device.scope,
        "period_s": device.sampling_period_s,
    }
