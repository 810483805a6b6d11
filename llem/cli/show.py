"""``llem show``: one result in full."""

from llem.cli.output import AsJson, Root, print_lines, print_warnings, write_out
from llem.codec import to_json
from llem.report.summary import Line, details, headline
from llem.store import ResultStore


def show_verb(key: str, /, *, root: Root = "results", as_json: AsJson = False) -> int:
    """
    Show one result: figures, evidence, warnings and where it lies.

    Parameters
    ----------
    key
        Key as `llem list` prints it, or the path of a result.
    """
    store = ResultStore(root)
    result = store.get(key)
    if as_json:
        write_out(to_json(result).decode())
        return 0
    print_lines([*headline(result), *details(result), Line("path", store.path_of(key))])
    print_warnings(result.measurement_warnings)
    return 0
