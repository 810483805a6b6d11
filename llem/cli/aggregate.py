"""``llem aggregate``: finish a run of many processes whose state was kept."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from llem.cli.output import (
    AsJson,
    print_json,
    print_lines,
    print_warnings,
    tell_if_large,
    writing_store,
)
from llem.distributed import finish
from llem.report.figures import unicode_text
from llem.report.summary import Line, headline, warnings_of
from llem.report.table import to_row
from llem.store import Spool


def aggregate_verb(
    folder: Path,
    /,
    *,
    root: Annotated[Path | None, Parameter(name="--root")] = None,
    allow_incomplete: bool = False,
    as_json: AsJson = False,
) -> int:
    """
    Finish a run whose processes have left what they measured.

    Parameters
    ----------
    folder
        Folder of the run, below `.state` of its root, as the run that failed has named it.
    root
        Where the result is kept. By default where the run was to keep it.
    allow_incomplete
        Make a result without processes that left nothing, or nothing whole. It says which, and
        what the others left stays.
    """
    spool = Spool(folder)
    store = writing_store(spool.root if root is None else root)
    kept = finish(spool, store, allow_incomplete=allow_incomplete)
    tell_if_large(kept)
    if as_json:
        print_json({**to_row(kept.key, kept.result), "path": unicode_text(kept.path)})
    else:
        print_lines([*headline(kept.result), Line("kept", kept.path)])
        print_warnings(warnings_of(kept.result))
    return 0
