"""``llem verify``: check every result."""

import attrs

from llem.cli.message import say
from llem.cli.output import DEFAULT_ROOT, AsJson, Root, print_json, reading_progress
from llem.report.figures import printable
from llem.store import ResultStore, Verification


def verify_verb(*, root: Root = DEFAULT_ROOT, as_json: AsJson = False) -> int:
    """Read every result and its samples, hold them against their digests, and name every fault."""
    with reading_progress() as progress:
        found = ResultStore(root).verify(progress=progress)
    if as_json:
        print_json(attrs.asdict(found))
    else:
        _print(found, root)
    return 1 if found.faults else 0


def _print(found: Verification, root: str) -> None:
    for fault in found.faults:
        print(f"{fault.kind}: " + "\n".join(map(printable, fault.message.split("\n"))))
    for key in found.unverified:
        say(f"{key}: has no digest, as other tools write results")
    results = "1 result" if found.checked == 1 else f"{found.checked} results"
    faults = {0: "no fault", 1: "1 fault"}.get(len(found.faults), f"{len(found.faults)} faults")
    print(f"{results} in {printable(root)}: {faults}")
