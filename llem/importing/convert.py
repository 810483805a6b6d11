"""A document of any known format to a record."""

import codecs
import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, tzinfo

from llem.codec import measurement_config_hash, read_document, result_from_mapping
from llem.codec.document import parse, refuse_what_orjson_lets_pass
from llem.codec.naive import read_as_utc
from llem.domain.fields import shown
from llem.domain.process import SCHEMA_VERSION
from llem.errors import ResultValidationError, SchemaVersionError
from llem.importing.draft import Draft, Plain, leaves, number
from llem.importing.imported import OURS, Imported, unmapped
from llem.importing.llenergymeasure import Beside, read_2_0, read_engine, read_v1
from llem.importing.tokens import divide_by_all_tokens, take_output_tokens
from llem.importing.zone import take_zone

Reader = Callable[[Plain, Beside], Draft]

READERS: dict[tuple[str, str], tuple[str, Reader]] = {
    ("schema_version", "1.0.0"): ("llenergymeasure 1.x", read_v1),
    ("schema_version", "2.0.0"): ("llenergymeasure 1.x", read_v1),
    ("schema_version", "3.0.0"): ("llenergymeasure 1.x", read_v1),
    ("schema_version", SCHEMA_VERSION): ("llenergymeasure 2.0", read_2_0),
    ("schema_version", "3.0"): ("llenergymeasure 3.0", read_engine),
    ("schema_version", "4.0"): ("llenergymeasure 4.0", read_engine),
    ("schema_version", "5.0"): ("llenergymeasure 5.0", read_engine),
    ("bundle_version", "2.0"): ("llenergymeasure bundle 2.0", read_engine),
}
"""What reads a document, by the member that says its version, and by what that says."""

BESIDE = ("config.json", "environment.json", "system.json")
"""Files beside a document that a reader looks into."""

_ZEROS = re.compile(
    r"(.*\.)?(total_vram_mb|(model|peak|inference)_memory_mb|(gpu|cpu|ram)_energy_j|"
    r"(gpu|cpu)_power_w|emissions_kg_co2|total_flops|flops_total)"
)
"""Figures whose 0 may also mean in llenergymeasure that nothing was measured."""


def convert(
    document: bytes | str,
    *,
    beside: Mapping[str, bytes] | None = None,
    source: str = "document",
    timezone: tzinfo = UTC,
) -> Imported:
    """
    The record of a document that another tool wrote, or an older llem.

    Nothing is dropped in silence: a field that the record has no home for is listed, and so is what
    was assumed. A current document of llem is taken as it is.

    >>> convert(small_document).format  # doctest: +SKIP
    'llenergymeasure 3.0'

    Args:
        document: Text of the document; bytes are UTF-8.
        beside: Content of the files beside it, by name: ``config.json``, ``environment.json`` and
            ``system.json``, where some formats keep a part of the record.
        source: What messages call it, such as its path.
        timezone: Zone of times that have none there: local ones of the machine that wrote them.

    Raises:
        MalformedResultError: It, or a file beside it, is no JSON object.
        SchemaVersionError: It is in none of the formats that are known.
        ResultValidationError: Its values are such as no record may hold.
        ResultIntegrityError: It is not what a store of llem wrote.
    """
    text = document.encode("utf-8", "surrogatepass") if isinstance(document, str) else document
    plain = _parsed(text, source)
    name, read = _reader_of(plain, source)
    if read is read_2_0 and ("integrity" in plain or read_as_utc(plain) is None):
        try:
            return Imported(as_read=read_document(text, source=source).result, format=OURS)
        except ResultValidationError:
            plain.pop("integrity", None)  # whose digest was right
        name = OURS if "llem_version" in plain else name
    files = {
        file: _parsed(content, f"{source}: {file}")
        for file, content in (beside or {}).items()
        if file in BESIDE
    }
    draft = read(plain, files)
    _complete(draft)
    if name != OURS:
        take_output_tokens(draft)
        divide_by_all_tokens(draft)
        _note_what_may_mislead(draft)
    take_zone(draft, timezone)
    return Imported(
        as_read=result_from_mapping(draft.values, source=source),
        format=name,
        unmapped=tuple(
            unmapped(path, value, draft.reasons.get(path)) for path, value in draft.homeless()
        ),
        notes=tuple(draft.notes),
    )


def _parsed(text: bytes, source: str) -> Plain:
    """The object that *text* is; others than llem may begin a text with a byte order mark."""
    text = text.removeprefix(codecs.BOM_UTF8)
    plain = parse(text, source)
    refuse_what_orjson_lets_pass(text, source)
    return plain


def _reader_of(plain: Plain, source: str) -> tuple[str, Reader]:
    member = "bundle_version" if "bundle_version" in plain else "schema_version"
    version = plain.get(member)
    found = READERS.get((member, version)) if isinstance(version, str) else None
    if found is None:
        met = f"{member} {shown(version)}" if member in plain else "no schema_version"
        known = ", ".join(dict.fromkeys(name for name, _ in READERS.values()))
        raise SchemaVersionError(
            f"{source}: has {met}; what can be converted are results of {known}, and those of llem"
        )
    if "process_index" in plain:
        raise SchemaVersionError(
            f"{source}: is one process of a run; convert the result that was aggregated of them"
        )
    return found


def _complete(draft: Draft) -> None:
    """Have what a record needs and other tools leave out."""
    values = draft.values
    values["schema_version"] = SCHEMA_VERSION
    if values.get("aggregation") is None:
        processes = values.get("process_results")
        count = len(processes) if isinstance(processes, list) and processes else 1
        method = "single_process" if count == 1 else "unknown"
        values["aggregation"] = {"method": method, "num_processes": count}
        draft.notes.append(f"aggregation: taken as {method}; the source does not say")
    digest = values.get("measurement_config_hash")
    if isinstance(digest, str) and re.fullmatch("[0-9a-f]{16}", digest):
        return
    if digest is not None:
        draft.leave("measurement_config_hash", "is no hash of 16 hex digits")
    if isinstance(values.get("effective_config"), dict):
        values["measurement_config_hash"] = measurement_config_hash(values["effective_config"])
        draft.notes.append("measurement_config_hash: computed of effective_config")


def _note_what_may_mislead(draft: Draft) -> None:
    """Say which figures may not mean what they mean in records of llem."""
    values = draft.values
    _note_rate(draft)
    measured = {key: value for key, value in values.items() if key != "effective_config"}
    zeros = [path for path, value in leaves(measured) if number(value) == 0]
    if doubtful := [path for path in zeros if _ZEROS.fullmatch(path)]:
        draft.notes.append(f"{', '.join(doubtful)}: 0 is kept, and may mean not measured there")
    writer = draft.left.get("llenergymeasure_version")
    if isinstance(writer, str):
        del draft.left["llenergymeasure_version"]
        draft.notes.append(f"llenergymeasure_version: {writer} wrote it")
    draft.forget_empty("llenergymeasure_version")


def _note_rate(draft: Draft) -> None:
    """Say so where the tokens per second are not what the record's own fields give."""
    rate, tokens, time_s = (
        number(draft.values.get(name))
        for name in ("avg_tokens_per_second", "total_tokens", "total_inference_time_sec")
    )
    if rate is None or tokens is None or not time_s:
        return
    if not math.isclose(rate, tokens / time_s, rel_tol=1e-6):
        draft.notes.append(
            f"avg_tokens_per_second: {rate} is kept, and was not divided by "
            "total_inference_time_sec"
        )
