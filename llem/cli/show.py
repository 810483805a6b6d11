"""``llem show``: one result in full."""

from typing import Annotated

from cyclopts import Parameter

from llem.auditing import Audit, Check, audit
from llem.cli.output import (
    DEFAULT_MAX_JSON,
    DEFAULT_ROOT,
    AsJson,
    MaxJson,
    Root,
    print_json,
    print_lines,
    print_section,
    print_warnings,
    reading_store,
    write_out,
)
from llem.codec import to_json
from llem.domain.result import ExperimentResult
from llem.errors import ResultNotFoundError
from llem.report.figures import counted, figure
from llem.report.summary import Line, details, headline, warnings_of
from llem.store import ResultStore


def show_verb(
    key: str,
    /,
    *,
    root: Root = DEFAULT_ROOT,
    max_json_mib: MaxJson = DEFAULT_MAX_JSON,
    recompute: Annotated[bool, Parameter(name="--audit", negative="")] = False,
    as_json: AsJson = False,
) -> int:
    """
    Show one result: figures, evidence, warnings and where it lies.

    Parameters
    ----------
    key
        Key as `llem list` prints it, or the path of a result.
    recompute
        Recompute the energy from the samples beside the result instead, and say whether it agrees.
        Ends with 1 where it does not, or where the evidence for a figure is missing.
    """
    store = reading_store(root, max_json_mib)
    result = _get(store, key)
    if recompute:
        return _tell(audit(result, store.timeseries(key)), as_json=as_json)
    if as_json:
        write_out(to_json(result).decode())
        return 0
    print_lines([*headline(result), *details(result), Line("path", store.path_of(key))])
    print_warnings(warnings_of(result))
    return 0


def _get(store: ResultStore, key: str) -> ExperimentResult:
    try:
        return store.get(key)
    except ResultNotFoundError as error:
        raise ResultNotFoundError(f"{error}; `llem list` names what is kept") from None


def _tell(found: Audit, *, as_json: bool) -> int:
    if as_json:
        checks = [
            {
                "name": check.name,
                "recorded": check.recorded,
                "recomputed": check.recomputed,
                "tolerance": check.tolerance,
                "agrees": check.agrees,
                "note": check.note,
            }
            for check in found.checks
        ]
        print_json({"agrees": found.agrees, "complete": found.complete, "checks": checks})
    else:
        print_lines([Line("verdict", _verdict(found))])
        for heading, lines in _sections(found).items():
            print_section(heading, lines)
    return 0 if found.agrees and found.complete else 1


def _sections(found: Audit) -> dict[str, list[Line]]:
    """A line a figure, under the device that it is of, or else under the result."""
    sections: dict[str, list[Line]] = {}
    for check in found.checks:
        owner, _, field = check.name.rpartition(" ")
        sections.setdefault(owner or "result", []).append(Line(field, _answer(check)))
    return sections


def _answer(check: Check) -> str:
    if check.agrees is None:
        return f"not checked: {check.note or 'neither recorded nor recomputed'}"
    answer = "agrees" if check.agrees else "DIFFERS"
    text = f"{answer}: recorded {figure(check.recorded)}, recomputed {figure(check.recomputed)}"
    return f"{text} ({check.note})" if check.note else text


def _verdict(found: Audit) -> str:
    made = [check for check in found.checks if check.agrees is not None]
    differing = sum(not check.agrees for check in made)
    bare = sum(check.agrees is None and check.recorded is not None for check in found.checks)
    if differing:
        does = (
            "DIFFERS from its evidence: do not trust it"
            if differing == 1
            else "DIFFER from their evidence: do not trust them"
        )
        return f"{differing} of {counted(len(made), 'figure')} {does}"
    if bare:
        return counted(
            bare,
            "figure cannot be checked: its evidence is missing",
            "figures cannot be checked: their evidence is missing",
        )
    if not made:
        return "nothing to recompute: no energy was measured"
    agree = counted(
        len(made), "figure with evidence agrees with it", "figures with evidence agree with it"
    )
    return agree if len(made) == 1 else f"all {agree}"
