"""A record to the text of its document, and back."""

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import attrs
from cattrs import BaseValidationError

from llem.codec.converter import colon_counter, converter, faults_of, plain_structure
from llem.codec.document import (
    check_version,
    content_sha256,
    count_colons,
    dump,
    is_content,
    is_text_of,
    parse,
    refuse_what_orjson_lets_pass,
)
from llem.codec.naive import read_as_utc
from llem.domain.config import ExperimentConfig
from llem.domain.fields import Record, quantity, shown, text
from llem.domain.result import ExperimentResult
from llem.errors import (
    ConfigError,
    MalformedResultError,
    NaiveTimeWarning,
    ResultIntegrityError,
    ResultValidationError,
    SidecarPathError,
)

T = TypeVar("T", bound=Record)


@attrs.frozen(kw_only=True, weakref_slot=False)
class SidecarDigest(Record):
    """
    What is known of a sidecar's bytes.

    Attributes:
        bytes: Their number.
        sha256: Their SHA-256, 64 hex digits.
    """

    bytes: int = quantity()
    sha256: str = text(r"[0-9a-f]{64}", "64 lower-case hex digits")


@attrs.frozen(kw_only=True, weakref_slot=False)
class Integrity:
    """
    What a store adds to a document, so that a reader can tell whether it is what was written.

    Attributes:
        commit_id: Unique name of the writing.
        content_sha256: SHA-256 of the canonical JSON of everything else.
        sidecars: Of each file beside the document, its size and digest.
    """

    commit_id: str
    content_sha256: str
    sidecars: Mapping[str, SidecarDigest]


@attrs.frozen(kw_only=True, weakref_slot=False)
class Document:
    """
    A document that was read.

    Attributes:
        result: The record.
        integrity: What a store added to it. None: no store did.
    """

    result: ExperimentResult
    integrity: Integrity | None


def to_json(result: ExperimentResult) -> bytes:
    """
    The document of *result*: UTF-8, fields in fixed order, two spaces a level, newline.

    Raises:
        ResultValidationError: *result* is no `ExperimentResult`.
    """
    if not isinstance(result, ExperimentResult):
        raise ResultValidationError(f"to_json takes an ExperimentResult, got {shown(result)}")
    return dump(to_mapping(result))


def to_stored_json(
    result: ExperimentResult, *, commit_id: str, sidecars: Mapping[str, bytes | SidecarDigest]
) -> bytes:
    """
    The document of *result* as a store writes it.

    Args:
        result: The record.
        commit_id: Unique name of the writing.
        sidecars: Content of each file beside the document, or its digest, by name.
    """
    document = to_mapping(result)
    digests = {name: attrs.asdict(_digest(content)) for name, content in sidecars.items()}
    integrity = {
        "commit_id": commit_id,
        "content_sha256": content_sha256(document),
        "sidecars": digests,
    }
    processes = document.pop("process_results")
    return dump(document | {"integrity": integrity, "process_results": processes})


def _digest(content: bytes | SidecarDigest) -> SidecarDigest:
    if isinstance(content, SidecarDigest):
        return content
    return SidecarDigest(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def from_json(data: bytes | str) -> ExperimentResult:
    """
    The record whose document *data* is.

    A document that a store wrote says its digest, and it is checked.

    Args:
        data: Text of a document; bytes are UTF-8.

    Raises:
        MalformedResultError: It is no JSON object.
        SchemaVersionError: Its schema version is not one this llem reads.
        ResultIntegrityError: It is not what a store wrote.
        ResultValidationError: It is no result; every fault is listed with its path.

    Warns:
        NaiveTimeWarning: None of its times has a zone; they were read as UTC.
    """
    return read_document(data, source="document").result


def read_document(data: bytes | str, *, source: str, sidecar: str | None = None) -> Document:
    """
    As `from_json`, with what a store added.

    Args:
        data: Text of a document; bytes are UTF-8.
        source: What messages call it, such as its path.
        sidecar: The one name that its ``timeseries`` may have. None: any.

    Raises:
        SidecarPathError: Its ``timeseries`` has another name.
    """
    text = _encoded(data, source)
    plain = parse(text, source)
    check_version(plain, source)
    colons = count_colons(plain.get("integrity"))
    integrity = _take_integrity(plain, source)
    colons += integrity is not None
    if integrity is not None:
        _check_content(plain, integrity.content_sha256, text, source)
    _check_sidecar_name(plain.get("timeseries"), sidecar, source)
    result = _plain_record(plain, ExperimentResult)
    if result is None or not is_text_of(text, colons + colon_counter(ExperimentResult)(result)):
        refuse_what_orjson_lets_pass(text, source)
        result = _careful_result(plain, source)
    return Document(result=result, integrity=integrity)


def record_to_json(record: Record) -> bytes:
    """The document of *record*, of whatever class: as `to_json` writes a result."""
    return dump(to_mapping(record))


def record_from_json(data: bytes | str, cls: type[T], *, source: str) -> T:
    """
    The record of the class *cls* whose document *data* is, as strictly as `from_json`.

    Args:
        data: Text of a document; bytes are UTF-8.
        cls: The class. Where it has a ``schema_version``, that is looked at first.
        source: What messages call it, such as its path.

    Raises:
        MalformedResultError: It is no JSON object.
        SchemaVersionError: Its schema version is not one this llem reads.
        ResultValidationError: It is no such record; every fault is listed with its path.
    """
    text = _encoded(data, source)
    plain = parse(text, source)
    if "schema_version" in attrs.fields_dict(cls):  # type: ignore[arg-type]
        check_version(plain, source, advice="use the llem that wrote it")
    record = _plain_record(plain, cls)
    if record is not None and is_text_of(text, colon_counter(cls)(record)):  # type: ignore[arg-type]
        return record
    refuse_what_orjson_lets_pass(text, source)
    try:
        return converter().structure(plain, cls)
    except (BaseValidationError, ResultValidationError) as error:
        _refuse(error, source, cls.__name__)


def _encoded(data: bytes | str, source: str) -> bytes:
    if isinstance(data, str):
        return data.encode("utf-8", "surrogatepass")
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise MalformedResultError(f"{source}: must be bytes or str, got {type(data).__name__}")


def to_mapping(record: Record) -> dict[str, Any]:
    """*record* as plain dicts and lists of what JSON can hold. To be read, not to be changed."""
    plain: dict[str, Any] = converter().unstructure(record)
    return plain


def config_from_mapping(values: Mapping[str, Any], *, source: str) -> ExperimentConfig:
    """
    The configuration that *values* spell out; what is missing has its default.

    Args:
        values: Settings by name, as a TOML file gives them.
        source: What messages call them, such as the file's path.

    Raises:
        ConfigError: A setting is not known or cannot be; every fault is listed.
    """
    try:
        return converter().structure(dict(values), ExperimentConfig)
    except (BaseValidationError, ConfigError) as error:
        faults = [f"{problem} @ {path}" for problem, path in faults_of(error)]
        raise ConfigError(f"{source}: {'; '.join(faults)}") from None


def result_from_mapping(values: Mapping[str, Any], *, source: str) -> ExperimentResult:
    """
    The record that *values* spell out, as a document would.

    Args:
        values: Fields by name, in what JSON can hold.
        source: What messages call them.

    Raises:
        ResultValidationError: They are no result; every fault is listed with its path.
    """
    try:
        return converter().structure(dict(values), ExperimentResult)
    except (BaseValidationError, ResultValidationError) as error:
        _refuse(error, source)


def _plain_record(plain: dict[str, Any], cls: type[T]) -> T | None:
    """The record of a document that is exactly as we write it. None: it needs a careful look."""
    try:
        record: T = plain_structure(cls)(plain)  # type: ignore[arg-type]
    except Exception:  # noqa: BLE001, whatever it is, the careful look will say it
        return None
    return record


def _careful_result(plain: dict[str, Any], source: str) -> ExperimentResult:
    try:
        return converter().structure(plain, ExperimentResult)
    except (BaseValidationError, ResultValidationError) as error:
        first = error
    in_utc = read_as_utc(plain)
    if in_utc is None:
        _refuse(first, source)
    result = result_from_mapping(in_utc, source=source)
    warnings.warn(
        f"{source}: its times have no zone and were read as UTC", NaiveTimeWarning, stacklevel=4
    )
    return result


def _check_content(plain: dict[str, Any], sha256: str, text: bytes, source: str) -> None:
    try:
        if is_content(plain, sha256):
            return
        found = content_sha256(plain)
    except TypeError:  # orjson reads deeper than it writes
        raise MalformedResultError(f"{source}: is nested too deep") from None
    refuse_what_orjson_lets_pass(text, source)
    raise ResultIntegrityError(
        f"{source}: its content is not what was written: SHA-256 is {found}, "
        f"recorded was {sha256}; restore the file from a copy"
    )


def _check_sidecar_name(name: Any, sidecar: str | None, source: str) -> None:
    if sidecar is not None and isinstance(name, str) and name != sidecar:
        problem = f"timeseries must be {sidecar!r} or null, got {shown(name)}"
        fault = (problem, "$.timeseries")
        raise SidecarPathError(f"{source}: {problem} @ $.timeseries", faults=[fault])


def _refuse(error: Exception, source: str, what: str = "result") -> NoReturn:
    faults = list(faults_of(error))
    deep = [problem for problem, _ in faults if "must nest at most" in problem]
    if deep:
        raise MalformedResultError(f"{source}: is nested too deep: {deep[0]}") from None
    lines = [f"{problem} @ {path}" for problem, path in faults]
    listed = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} faults:", *lines])
    raise ResultValidationError(f"{source}: is no {what}: {listed}", faults=faults) from None


def _take_integrity(plain: dict[str, Any], source: str) -> Integrity | None:
    """Take the integrity member out of *plain*."""
    if "integrity" not in plain:
        return None
    member = plain.pop("integrity")
    wanted = {"commit_id", "content_sha256"}
    if (
        not isinstance(member, dict)
        or not wanted <= member.keys() <= wanted | {"sidecars"}
        or not all(isinstance(member[name], str) for name in wanted)
        or not isinstance(member.get("sidecars", {}), dict)
    ):
        raise ResultIntegrityError(
            f"{source}: its integrity member is not one that a store writes, "
            f"got {shown(member)} @ $.integrity"
        )
    try:
        sidecars = {
            name: converter().structure(digest, SidecarDigest)
            for name, digest in member.get("sidecars", {}).items()
        }
    except (BaseValidationError, ResultValidationError) as error:
        problem, path = next(faults_of(error, "$.integrity.sidecars"))
        raise ResultIntegrityError(f"{source}: {problem} @ {path}") from None
    return Integrity(
        commit_id=member["commit_id"], content_sha256=member["content_sha256"], sidecars=sidecars
    )
