"""Results that something is wrong with."""

import hashlib
import io
import json

import pyarrow.parquet as pq

from llem.codec import to_json, to_stored_json
from llem.testing import small_result, small_table


def sidecar_of(path):
    return path.with_name("timeseries.parquet")


def stored(path, **fields):
    """A document at *path* whose digest is right, whatever its values are."""
    document = json.loads(to_json(small_result())) | fields
    text = to_stored_json(small_result(), commit_id="x", sidecars={})
    integrity = json.loads(text)["integrity"]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    integrity["content_sha256"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(document | {"integrity": integrity}))


def malformed(path):
    path.write_bytes(path.read_bytes()[:100])


def schema_version(path):
    stored(path, schema_version="3.0")


def integrity(path):
    path.write_bytes(path.read_bytes().replace(b"1234.5", b"1235.5"))


def validation(path):
    stored(path, total_tokens="300")


def sidecar_missing(path):
    sidecar_of(path).unlink()


def sidecar_integrity(path):
    content = bytearray(sidecar_of(path).read_bytes())
    content[len(content) // 2] ^= 1
    sidecar_of(path).write_bytes(content)


def sidecar_schema(path):
    sink = io.BytesIO()
    pq.write_table(small_table().drop_columns(["gpu_index"]), sink)
    sidecar_of(path).write_bytes(sink.getvalue())
    result = small_result(timeseries="timeseries.parquet")
    content = {"timeseries.parquet": sink.getvalue()}
    path.write_bytes(to_stored_json(result, commit_id="x", sidecars=content))


def sidecar_path(path):
    stored(path, timeseries="../secret.parquet")


def access(path):
    path.unlink()
    path.symlink_to("nowhere")


KINDS = {
    "malformed": (malformed, "line"),
    "schema_version": (schema_version, "'3.0'"),
    "integrity": (integrity, "SHA-256"),
    "validation": (validation, "$.total_tokens"),
    "sidecar_missing": (sidecar_missing, "timeseries.parquet: is gone"),
    "sidecar_integrity": (sidecar_integrity, "SHA-256"),
    "sidecar_schema": (sidecar_schema, "gpu_index"),
    "sidecar_path": (sidecar_path, "$.timeseries"),
    "access": (access, "symbolic link"),
}
