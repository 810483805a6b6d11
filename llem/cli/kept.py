"""What is told of a result that was just kept."""

import math
import os

from llem.cli.message import say
from llem.cli.output import print_json, print_lines, print_warnings
from llem.protocols import StoredResult
from llem.report.figures import unicode_text
from llem.report.summary import Line, headline, warnings_of
from llem.report.table import to_row
from llem.store.reading import MAX_JSON_BYTES


def tell_kept(kept: StoredResult, *, as_json: bool) -> None:
    """Print its figures, where it lies and its warnings, or all of its columns as JSON."""
    _tell_if_large(kept)
    if as_json:
        print_json({**to_row(kept.key, kept.result), "path": unicode_text(kept.path)})
    else:
        print_lines([*headline(kept.result), Line("kept", kept.path)])
        print_warnings(warnings_of(kept.result))


def _tell_if_large(kept: StoredResult) -> None:
    """Say so where readers take it only once their limit is raised."""
    size = os.path.getsize(kept.path)
    if size > MAX_JSON_BYTES:
        mebibytes = math.ceil(size / 2**20)
        say(
            f"warning: {kept.path} has {mebibytes} MiB, more than is read unless told to: "
            f"use --max-json-mib {mebibytes}, or max_json_bytes of a ResultStore"
        )
