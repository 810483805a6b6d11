"""Mutations that keep the form of what they change, so that more of them get past a parser."""

import io
import json
import random
import re
from collections.abc import Callable, Iterator
from typing import Any, get_args

import atheris
import attrs
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from llem.codec import content_sha256
from llem.domain.result import ExperimentResult
from llem.domain.timeseries import COLUMNS, REQUESTS_KEY, STRIDE_KEY, TIMING_KEY

Mutate = Callable[[bytes, int, int], bytes]


class Raw(str):
    """A value that is written as it stands, JSON or not."""

    __slots__ = ()


class Members(list):
    """The members of an object as pairs, of which some may have the same name."""


RAW = [
    *("-0", "-0.0", "0.0", "1E5", "1e16", "1e-5", "1e-7", "5e-324", "1.7976931348623157e308"),
    *("1e999", "NaN", "Infinity", "01", "1.", "9007199254740993", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551615", "18446744073709551616", "1" + "0" * 30),
    *('"\\u003a"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"', '"\\u2028"', '"\ufeff"'),
    *("[" * 250 + "]" * 250, '{"a":' * 238 + "1" + "}" * 238, "[" * 2000 + "]" * 2000),
]
VALUES = [
    *(None, True, False, 0, 1, 2, -1, 0.5, 1.0, 1e300, "", "2.0", "gpt2", "a:b", [], [0.0], ["a"]),
    *("timeseries.parquet", "..", "energy_measurement_unavailable: no meter", "unknown", "total"),
    *("0123456789abcdef", "pytorch", [[]], [1, 0.5], [None], "1e5", "3.0", "4.0", "5.0", "1.0.0"),
    "2026-03-13T14:21:11.145237+00:00",
    "2026-03-13T14:21:11+00:00",
    "2026-03-13T14:21:11",
    "2026-03-13",
    "2026-03-13T142111.1+00:00",
    "2026-03-13T14:21.112145237+00:00",
    "2026-03-13T14:21:11Z",
    "2026-03-13T14:21:11.145237+05:30",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59.999999-14:00",
    "9999-12-31T23:59:59",
    "0001-01-01T00:00:00",
]


def records(kind: Any = ExperimentResult) -> set[Any]:
    """Every class that a document of *kind* is made of."""
    if attrs.has(kind):
        return {kind}.union(*(records(field.type) for field in attrs.fields(kind)))
    return set().union(*map(records, get_args(kind)))


WORDS = sorted(
    {field.name for cls in records() for field in attrs.fields(cls)}
    | {"integrity", "commit_id", "content_sha256", "sidecars", "sha256", "bytes", "duration_sec"}
    | {"engine", "engine_version", "bundle_version", "declared_config", "declared_config_hash"}
    | {"throttle", "any", "hw", "sw", "environment", "energy_tracking_failed", "pip_freeze"}
    | {"driver_supported_version", "steady_state_not_detected", "mj_per_tok_total", "session"}
    | {"runner", "runner_provenance", "energy_per_token_mj_adjusted", "llenergymeasure_version"}
    | {"process_index", "single_process", "llem.timing", "limit_w", "spread_s", "ARROW:schema"}
)


def document(data: bytes, max_size: int, seed: int) -> bytes:
    """*data* with a few of its members changed; its digest, if any, is often made right."""
    chance = random.Random(seed)
    if chance.random() < 0.25:
        return atheris.Mutate(data, max_size)
    changed = _changed_json(data, chance)
    if changed is not None and chance.random() < 0.8:
        changed = _vouched_for(changed)
    return changed if changed and len(changed) <= max_size else atheris.Mutate(data, max_size)


def foreign(data: bytes, max_size: int, seed: int) -> bytes:
    """*data* with a few members of its document changed, or of a file beside it."""
    chance = random.Random(seed)
    parts = data.split(b"\0")
    i = chance.randrange(len(parts))
    parts[i] = document(parts[i], max_size, chance.randrange(2**32))
    changed = b"\0".join(parts)
    return changed if len(changed) <= max_size else atheris.Mutate(data, max_size)


def sidecar(data: bytes, max_size: int, seed: int) -> bytes:
    """*data* in some of its bytes, or with its table changed and written anew."""
    chance = random.Random(seed)
    if chance.random() < 0.6:
        return atheris.Mutate(data, max_size)
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).slice(0, 64)
        for _ in range(chance.randint(1, 3)):
            table = chance.choice(_TABLES)(table, chance)
        changed = _parquet(table, chance)
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, ArithmeticError):
        return atheris.Mutate(data, max_size)
    return changed if len(changed) <= max_size else atheris.Mutate(data, max_size)


def _changed_json(data: bytes, chance: random.Random) -> bytes | None:
    try:
        plain = json.loads(data, object_pairs_hook=Members)
        for _ in range(chance.choice([1, 1, 2, 3, 6])):
            _change(plain, chance)
        return _text(plain).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return None


def _vouched_for(data: bytes) -> bytes:
    """*data* with the digest of what a parser makes of it, where it has one."""
    try:
        plain = orjson.loads(data)
        recorded = plain.pop("integrity")["content_sha256"].encode()
        return data.replace(recorded, content_sha256(plain).encode()) if recorded else data
    except (ValueError, TypeError, LookupError, AttributeError):
        return data


def _places(node: Any) -> Iterator[tuple[Any, int]]:
    """Every value in *node*, as what holds it and its index there."""
    if isinstance(node, list):
        for i, item in enumerate(node):
            yield node, i
            yield from _places(item[1] if isinstance(node, Members) else item)


def _get(holder: Any, i: int) -> Any:
    return holder[i][1] if isinstance(holder, Members) else holder[i]


def _set(holder: Any, i: int, value: Any) -> None:
    holder[i] = (holder[i][0], value) if isinstance(holder, Members) else value


def _change(plain: Any, chance: random.Random) -> None:
    places = list(_places(plain))
    if not places:
        return
    (holder, i), (other, j) = chance.choice(places), chance.choice(places)
    kind = chance.randrange(9)
    if kind == 0:
        del holder[i]
    elif kind == 1:
        holder.insert(chance.randint(0, len(holder)), holder[i])
    elif kind == 2:
        one, two = _get(holder, i), _get(other, j)
        _set(holder, i, two)
        _set(other, j, one if chance.random() < 0.5 else two)
    elif kind == 3 and isinstance(holder, Members):
        holder[i] = (chance.choice([*WORDS, "novel", "a:b", "long" * 100]), holder[i][1])
    elif kind == 4 and isinstance(holder, Members):
        holder.append((chance.choice(WORDS), _some_value(chance)))
    elif kind == 5:
        _set(holder, i, _nudged(_get(holder, i), chance))
    elif kind == 6:
        _set(holder, i, chance.choice([[_get(holder, i)], Members([("a", _get(holder, i))])]))
    else:
        _set(holder, i, _some_value(chance))


def _some_value(chance: random.Random) -> Any:
    return Raw(chance.choice(RAW)) if chance.random() < 0.3 else chance.choice(VALUES)


def _nudged(value: Any, chance: random.Random) -> Any:
    """A value of the same kind, near *value*."""
    if isinstance(value, str):
        if re.match(r"\d{4}-", value) and chance.random() < 0.8:
            return _same_time(value, chance)
        i = chance.randint(0, len(value))
        return value[:i] + chance.choice(':.-+0T\\"é😀\n\x00') + value[i + chance.randint(0, 1) :]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    try:
        return chance.choice([value + 1, -value, value * 1e9, value / 3, float(value), int(value)])
    except (OverflowError, ValueError):
        return 0


def _same_time(value: str, chance: random.Random) -> str:
    """The time *value* in another form, or one not far from it."""
    changes = [
        (r"[+-]\d\d:\d\d$", chance.choice(["", "Z", "+05:30", "-00:00", "+00", "+00:00:00"])),
        (r"\.\d+", chance.choice(["", ".1", ".14", ".145237999", ",145237", ".145"])),
        (r"(?<=T\d\d):(\d\d):", r"\1"),
        (r"T", chance.choice([" ", "t", "T0"])),
        (r"^(\d{4})-(\d\d)-", r"\1\2"),
        (r"^\d{4}", chance.choice(["0001", "9999", "2027"])),
    ]
    for pattern, new in chance.sample(changes, chance.randint(1, 3)):
        value = re.sub(pattern, new, value)
    return value


def _text(node: Any) -> str:
    if isinstance(node, Raw):
        return str(node)
    if isinstance(node, Members):
        return "{" + ",".join(f"{json.dumps(key)}:{_text(value)}" for key, value in node) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(_text, node)) + "]"
    return json.dumps(node, ensure_ascii=isinstance(node, str) and len(node) % 2 == 0)


def _cast(table: pa.Table, chance: random.Random) -> pa.Table:
    i = chance.randrange(table.num_columns)
    kinds = [pa.float16(), pa.float32(), pa.float64(), pa.int8(), pa.int64(), pa.uint8()]
    kinds += [pa.uint64(), pa.decimal128(20, 3), pa.string(), pa.timestamp("us"), pa.bool_()]
    kinds.append(pa.dictionary(pa.int8(), table.column(i).type))
    array = table.column(i).cast(chance.choice(kinds), safe=False)
    return table.set_column(i, table.schema.field(i).with_type(array.type), array)


def _value(table: pa.Table, chance: random.Random) -> pa.Table:
    i = chance.randrange(table.num_columns)
    values = table.column(i).to_pylist()
    some = [None, 0, 1, 2, 3, -1, 0.1, 1e30, float("nan"), float("inf"), 2**31, 2**63, values[0]]
    for _ in range(chance.choice([1, 1, len(values)])):
        values[chance.randrange(len(values))] = chance.choice(some)
    array = pa.array(values, table.column(i).type)
    return table.set_column(i, table.schema.field(i).with_nullable(True), array)


def _column(table: pa.Table, chance: random.Random) -> pa.Table:
    names = table.column_names
    i = chance.randrange(len(names))
    kind = chance.randrange(4)
    if kind == 0:
        return table.drop_columns([names[i]])
    if kind == 1:
        return table.append_column(chance.choice([names[i], "é", ""]), table.column(i))
    if kind == 2:
        return table.rename_columns([*names[:i], chance.choice(WORDS), *names[i + 1 :]])
    if set(names) >= {column.name for column in COLUMNS}:
        return table.select([column.name for column in COLUMNS])
    return table.select(chance.sample(names, len(names)))


def _rows(table: pa.Table, chance: random.Random) -> pa.Table:
    order = list(range(table.num_rows))
    kind = chance.randrange(4)
    if kind == 0:
        chance.shuffle(order)
    elif kind == 1:
        order += order[: chance.randint(0, len(order))]
    elif kind == 2:
        order = order[: chance.randint(0, len(order))]
    else:
        del order[chance.randrange(len(order))]
    return table.take(pa.array(order, pa.int64()))


def _metadata(table: pa.Table, chance: random.Random) -> pa.Table:
    metadata = dict(table.schema.metadata or {})
    timing = metadata.get(TIMING_KEY, b'{"0":{"limit_w":1,"refresh_s":1,"window_s":null}}')
    changed = _changed_json(timing, chance)
    metadata[TIMING_KEY] = changed if changed is not None else b"{"
    if chance.random() < 0.5:
        requests = metadata.get(REQUESTS_KEY, b'{"0":[[1,null,2]],"1":[[3,4,5]]}')
        changed = _changed_json(requests, chance)
        metadata[REQUESTS_KEY] = changed if changed is not None else b"["
        metadata[STRIDE_KEY] = chance.choice([b"2", b"", b"-1", b"\xff", b"9" * 5000])
    if chance.random() < 0.2:
        metadata = {chance.choice([b"\xff", TIMING_KEY, b""]): chance.choice([b"\xff", b"", b"{}"])}
    return table.replace_schema_metadata(metadata)


_TABLES = [_cast, _value, _value, _column, _rows, _rows, _metadata]


def _parquet(table: pa.Table, chance: random.Random) -> bytes:
    sink = io.BytesIO()
    split = [column.name for column in COLUMNS if column.kind == "floating"]
    split = [name for name in split if name in table.column_names and chance.random() < 0.3]
    pq.write_table(
        table,
        sink,
        compression=chance.choice(["none", "none", "snappy", "zstd", "gzip", "lz4", "brotli"]),
        use_dictionary=not split and chance.random() < 0.5,
        column_encoding=dict.fromkeys(split, "BYTE_STREAM_SPLIT") or None,
        row_group_size=chance.choice([1, 2, 64, 64]),
        data_page_size=chance.choice([1, 16, 2**20]),
        data_page_version=chance.choice(["1.0", "2.0"]),
        store_schema=chance.random() < 0.5,
        write_statistics=chance.random() < 0.5,
    )
    return sink.getvalue()
