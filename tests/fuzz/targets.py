"""
What a reader promises of any bytes: a refusal of ours, or something that keeps its word.

Each target takes the bytes of one case. `LlemError` passes as a refusal, a `LlemWarning` as a
warning; any other exception or warning leaves the target, and so does an `AssertionError` where
something was read that does not keep a promise.
"""

import io
import json
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import attrs
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

import llem
from llem.codec import (
    canonical_json,
    from_json,
    read_document,
    result_from_mapping,
    to_mapping,
    to_stored_json,
)
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import TIMESERIES_NAME
from llem.errors import LlemError, LlemWarning, MalformedResultError, SidecarPathError
from llem.importing import Imported, convert
from llem.measure import by_device, request_spans, stride, timings
from llem.store.blocks import SeriesFile
from llem.store.columns import schema_of
from llem.store.sidecar import decode, encode, heading_of, read_table

CORPUS = Path(__file__).with_name("corpus")
MAX_ROWS = 64
MAX_LINE = 400
MAX_TABLE_BYTES = 2**20
BESIDE = ("config.json", "environment.json", "system.json")


def document(data: bytes) -> None:
    """`from_json` and `read_document`, of bytes and of text."""
    result = _outcome(lambda: from_json(data))
    _agree_of_text(data, result)
    if isinstance(result, ExperimentResult):
        _is_what_the_text_says(data, result)
        _goes_round(result)


def foreign(data: bytes) -> None:
    """`convert`. A NUL ends the document, and each of the files beside it."""
    text, *others = data.split(b"\0")
    beside = dict(zip(BESIDE, others, strict=False))
    imported = _outcome(lambda: convert(text, beside=beside))
    if isinstance(imported, Imported):
        _tells_what_it_left(imported)
        _goes_round(imported.result)


def sidecar(data: bytes) -> None:
    """The store's reader of sidecars, and what makes samples of its table."""
    table = _outcome(lambda: decode(data, source="sidecar", max_rows=MAX_ROWS))
    by_blocks = _outcome(lambda: _joined(SeriesFile(io.BytesIO(data), "sidecar", MAX_ROWS)))
    if isinstance(table, LlemError):
        assert isinstance(by_blocks, LlemError)
        return
    table.validate(full=True)
    assert table.num_rows == pq.read_metadata(pa.BufferReader(data)).num_rows <= MAX_ROWS
    assert table.get_total_buffer_size() <= MAX_TABLE_BYTES
    _samples_fit(table)
    kept = _outcome(lambda: read_table(table, MAX_ROWS, experiment_id="fuzzed"))
    if isinstance(kept, LlemError):
        assert type(by_blocks) is type(kept)
    else:
        assert by_blocks.equals(kept)
        _encodes_again(kept)


def _joined(file):
    """What is read of a file three rows at a time."""
    return pa.concat_tables([schema_of().empty_table(), *file.blocks(3)])


TARGETS: dict[str, Callable[[bytes], None]] = {
    "document": document,
    "foreign": foreign,
    "sidecar": sidecar,
}


def _outcome(act):
    """What *act* gives, or the refusal that it raises, whose words can be printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", LlemWarning)
        try:
            return act()
        except LlemError as error:
            _can_be_told(error)
            return error


def _can_be_told(error):
    """Its words can be printed, and are one line where the text is no JSON object."""
    words = str(error)
    assert words.encode()
    if isinstance(error, MalformedResultError):
        assert len(words) < MAX_LINE
        assert len(words.splitlines()) == 1


def _agree_of_text(data, result):
    """The same as text, and where the sidecar may have one name only."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        assert isinstance(result, LlemError)
        return
    found = _outcome(lambda: read_document(text, source="text", sidecar=TIMESERIES_NAME))
    if isinstance(found, LlemError):
        assert type(found) in (type(result), SidecarPathError)
    else:
        assert found.result == result


def _is_what_the_text_says(data, result):
    """The standard library's parser and the converter see the same, or times without a zone."""
    plain = json.loads(data, object_pairs_hook=_unique)
    plain.pop("integrity", None)
    slowly = _outcome(lambda: result_from_mapping(plain, source="text"))
    if isinstance(slowly, LlemError):
        assert "timezone-aware" in str(slowly)
    else:
        assert slowly == result


def _unique(pairs):
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def _goes_round(result):
    """What is written is read as the same, and written as the same bytes."""
    text = llem.to_json(result)
    again = llem.from_json(text)
    assert again == result
    assert hash(again) == hash(result)
    assert llem.to_json(again) == text
    stored = to_stored_json(result, commit_id="fuzz", sidecars={})
    assert read_document(stored, source="stored").result == result
    plain = to_mapping(result)
    assert canonical_json(plain) == _canonical(plain)


def _canonical(plain):
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def _tells_what_it_left(imported):
    for field in imported.unmapped:
        assert field.path
        json.loads(field.value)
        orjson.dumps(field.path)
    assert imported.result == imported.result
    if imported.as_read.timeseries is not None:
        assert imported.without_timeseries("fuzz").result.timeseries is None


def _samples_fit(table):
    """Each device has samples of its own, a row for each of their times, and nothing else."""
    own = _outcome(lambda: by_device(table))
    assert set(own) == set(table["gpu_index"].to_pylist())
    for samples in own.values():
        shape = (len(samples.times_s), 1)
        assert samples.power_w.shape == samples.temperature_c.shape == shape
    assert sum(one.power_w.size for one in own.values()) <= table.num_rows
    assert _outcome(lambda: stride(table)) >= 1
    for process in (0, 1):
        assert all(_is_finite(span) for span in _outcome(lambda i=process: request_spans(table, i)))
    for told in _outcome(lambda: timings(table)).values():
        assert all(value is None or 0 <= value < np.inf for value in attrs.astuple(told))


def _is_finite(span):
    return all(at_s is None or np.isfinite(at_s) for at_s in attrs.astuple(span))


def _encodes_again(table):
    """What the store would keep of *table* is read as the same."""
    content = encode(table, heading_of(_some_result()))
    again = decode(content, source="again", max_rows=MAX_ROWS)
    assert again.equals(table)
    assert encode(again, heading_of(_some_result())) == content
    _samples_are_the_readings(again)


def _samples_are_the_readings(table):
    """Of several for one device at one time the last; NaN where there is none."""
    columns = [table[name].to_pylist() for name in table.column_names]
    readings = {(time, index): pair for time, *pair, index in zip(*columns, strict=True)}
    for index, samples in _outcome(lambda: by_device(table)).items():
        wanted = np.array([readings[t, index] for t in samples.times_s.tolist()], "f4")
        assert np.array_equal(wanted[:, [0]], samples.power_w, equal_nan=True)
        assert np.array_equal(wanted[:, [1]], samples.temperature_c, equal_nan=True)


@cache
def _some_result():
    return from_json((CORPUS / "document" / "seed_small.json").read_bytes())
