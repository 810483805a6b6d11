"""
Text <-> domain: a record to its JSON document and back, canonical JSON, the config hash.

`llem.codec.converter` says what stands in a document for each type.
"""

from llem.codec.confighash import measurement_config_hash
from llem.codec.document import canonical_json, content_sha256
from llem.codec.records import (
    Document,
    Integrity,
    SidecarDigest,
    config_from_mapping,
    from_json,
    read_document,
    record_from_json,
    record_to_json,
    result_from_mapping,
    to_json,
    to_mapping,
    to_stored_json,
)
from llem.codec.schema import json_schema

__all__ = [
    "Document",
    "Integrity",
    "SidecarDigest",
    "canonical_json",
    "config_from_mapping",
    "content_sha256",
    "from_json",
    "json_schema",
    "measurement_config_hash",
    "read_document",
    "record_from_json",
    "record_to_json",
    "result_from_mapping",
    "to_json",
    "to_mapping",
    "to_stored_json",
]
