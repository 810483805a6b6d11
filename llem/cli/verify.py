"""``llem verify``: check every result, and move what is at fault aside where that is asked for."""

from collections.abc import Sequence
from typing import Annotated, Any

import attrs
from cyclopts import Parameter

from llem.cli.message import say
from llem.cli.output import (
    DEFAULT_MAX_JSON,
    DEFAULT_ROOT,
    AsJson,
    MaxJson,
    Root,
    print_json,
    reading_progress,
    reading_store,
)
from llem.report.figures import counted, printable, unicode_text
from llem.store import Repair, StoreFault, Verification

Mend = Annotated[
    bool,
    Parameter(
        name="--repair",
        negative="",
        help="Move what is at fault into .llem-aside in the root. No file is deleted.",
    ),
]


def verify_verb(
    *,
    root: Root = DEFAULT_ROOT,
    repair: Mend = False,
    max_json_mib: MaxJson = DEFAULT_MAX_JSON,
    as_json: AsJson = False,
) -> int:
    """
    Read every result and its samples, hold them against their digests, and name every fault.

    What a writer on another machine, or before a restart, may still be writing is named after a
    day. What was moved aside goes back with `mv ROOT/.llem-aside/KEY.N ROOT/KEY`.
    """
    store = reading_store(root, max_json_mib)
    with reading_progress() as progress:
        found: Verification | Repair
        found = store.repair(progress=progress) if repair else store.verify(progress=progress)
    faults = found.left if isinstance(found, Repair) else found.faults
    if as_json:
        print_json(_plain(found) | _named(found, faults))
    else:
        _print(found, faults, root)
    return 1 if faults else 0


def _named(found: Verification | Repair, faults: Sequence[StoreFault]) -> dict[str, Any]:
    """The faults with their advice, under the name that *found* has for them."""
    name = "left" if isinstance(found, Repair) else "faults"
    return {name: [{**_plain(fault), "advice": fault.advice} for fault in faults]}


def _plain(told: Verification | Repair | StoreFault) -> dict[str, Any]:
    """*told* as JSON can hold it: the name of a folder may be no UTF-8."""
    return attrs.asdict(told, value_serializer=lambda *named: _spelled_out(named[-1]))


def _spelled_out(value: Any) -> Any:
    return unicode_text(value) if isinstance(value, str) else value


def _print(found: Verification | Repair, faults: Sequence[StoreFault], root: str) -> None:
    for fault in faults:
        print(f"{fault.kind}: " + "\n".join(map(printable, fault.message.split("\n"))))
        print(f"  {fault.advice}")
    ending = counted(len(faults), "fault") if faults else "no fault"
    if isinstance(found, Repair):
        for moved in found.moved:
            to = f"moved to {moved.to}" if moved.to else "an empty folder, taken away"
            print(f"{moved.kind}: {printable(moved.path)}: {printable(to)}")
        ending = f"{len(found.moved)} moved aside, {ending} left"
    else:
        for key in found.unverified:
            say(f"{key}: has no digest, as other tools write results")
    print(f"{counted(found.checked, 'result')} in {printable(root)}: {ending}")
