"""``llem export``: results as CSV, for a spreadsheet or a data frame."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from llem.cli.output import AsJson, Root, print_json, readable
from llem.errors import StoreWriteError
from llem.report.table import to_csv, to_row
from llem.store import ResultStore


def export_verb(
    *,
    output: Annotated[Path | None, Parameter(name=["--output", "-o"])] = None,
    root: Root = "results",
    as_json: AsJson = False,
) -> int:
    """
    Write all results as CSV: a header, then one line a result, oldest first.

    Columns keep their order in every version; units stand in their names (s, J, W, ms), and what
    is not known is empty.

    Parameters
    ----------
    output
        File to write. Without it the CSV goes to stdout.
    """
    found = list(readable(ResultStore(root)))
    if as_json:
        print_json([to_row(key, result) for key, result in found])
    elif output is None:
        sys.stdout.write(to_csv(found))
    else:
        write_csv(output, to_csv(found))
    return 0


def write_csv(path: Path, text: str) -> None:
    """
    Write *text* to the file *path*, whole or not at all.

    Raises:
        StoreWriteError: It cannot be written; what was there is untouched.
    """
    staged = path.with_name(f".{path.name}.llem-tmp")
    try:
        staged.write_text(text, encoding="utf-8", newline="")
        staged.replace(path)
    except OSError as fault:
        staged.unlink(missing_ok=True)
        raise StoreWriteError(
            f"{path}: the CSV was not written: {fault.strerror}; choose another file"
        ) from None
