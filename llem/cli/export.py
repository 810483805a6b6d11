"""``llem export``: results as CSV or JSON, for a spreadsheet or a data frame."""

import stat
import uuid
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from llem.cli.output import (
    DEFAULT_MAX_JSON,
    DEFAULT_ROOT,
    AsJson,
    MaxJson,
    Root,
    json_text,
    readable,
    write_out,
)
from llem.errors import StoreWriteError
from llem.report.table import to_csv, to_row


def export_verb(
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    root: Root = DEFAULT_ROOT,
    max_json_mib: MaxJson = DEFAULT_MAX_JSON,
    as_json: AsJson = False,
) -> int:
    """
    Write all results as CSV: a header, then one line a result, oldest first.

    Columns keep their order in every version; units stand in their names (s, J, W, ms, and mb for
    MiB), and what is not known is empty.

    Parameters
    ----------
    output
        File to write. Without it the export goes to stdout.
    """
    found, status = readable(root, max_json_mib)
    text = json_text([to_row(*pair) for pair in found]) if as_json else to_csv(found)
    if output is None:
        write_out(text)
    else:
        write_file(output, text)
    return status


def check_target(path: Path) -> None:
    """
    See that *path* can name a file, before a long run and not after it.

    Raises:
        StoreWriteError: It is a folder, or lies in none.
    """
    if not path.name or path.is_dir():
        raise StoreWriteError(f"{path}: the export was not written: it is a folder; name a file")
    if not path.parent.is_dir():
        raise StoreWriteError(
            f"{path}: the export was not written: there is no folder {path.parent}; make it"
        )


def write_file(path: Path, text: str) -> None:
    """
    Write *text* to the file *path*, whole or not at all; a pipe or a device is written into.

    Raises:
        StoreWriteError: It cannot be written; what was there is untouched.
    """
    check_target(path)
    content = text.encode("utf-8", "backslashreplace")
    try:
        path = path.resolve()
        if path.exists() and not path.is_file():
            path.write_bytes(content)
        else:
            _replace(path, content)
    except OSError as fault:
        raise StoreWriteError(
            f"{path}: the export was not written: {fault.strerror}; choose another file"
        ) from None


def _replace(path: Path, content: bytes) -> None:
    staged = path.with_name(f".{path.name[:100]}.{uuid.uuid4()}.llem-tmp")
    try:
        staged.write_bytes(content)
        if path.exists():
            staged.chmod(stat.S_IMODE(path.stat().st_mode))
        staged.replace(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
