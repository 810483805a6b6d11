"""Names: what the folder of a result is called, and which names are results."""

import itertools
import re
import unicodedata
from collections.abc import Iterator
from datetime import timedelta

from llem.domain.result import ExperimentResult, model_name
from llem.domain.timeseries import TIMESERIES_NAME
from llem.errors import InvalidNameError

RESULT_NAME = "result.json"
RESULT_FILES = (RESULT_NAME, TIMESERIES_NAME)
STAGING_NAME = ".llem-tmp"
ASIDE_NAME = ".llem-aside"
STATE_NAME = ".state"

MAX_SLUG = 160
"""
Longest slug. A name takes at most 255 bytes on the usual file systems, and the backend, the time
and the suffix want their share.
"""

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")
_NAME = re.compile(r".+_(?P<time>\d{4,}-\d\d-\d\dT\d\d-\d\d)(?:_(?P<suffix>\d+))?")


def slug(name: str) -> str:
    """
    *name* as a part of a file name that is safe on every file system.

    Compatibility forms are folded (NFKC), letters are lower-case, and whatever is not a letter
    a to z, a digit, a dot or an underscore is a dash. Names that Windows reserves get an x before
    them, and a name of which nothing is left is ``unnamed``.

    >>> slug("meta-llama/Llama-3.1-8B")
    'meta-llama-llama-3.1-8b'

    Raises:
        InvalidNameError: *name* is no str.
    """
    if not isinstance(name, str):
        raise InvalidNameError(f"a name must be a str, got {type(name).__name__}")
    folded = unicodedata.normalize("NFKC", name).lower()
    safe = re.sub(r"[^a-z0-9._]+", "-", folded).strip("-._")[:MAX_SLUG].rstrip("-._")
    if _RESERVED.fullmatch(safe):
        safe = f"x-{safe}"[:MAX_SLUG].rstrip("-._")
    return safe or "unnamed"


def folder_name(result: ExperimentResult, *, moved_by: timedelta = timedelta(0)) -> str:
    """What the folder of *result*, begun so much later, is called where no other has the name."""
    model = slug(model_name(result.effective_config))
    minute = (result.start_time + moved_by).isoformat()[:16].replace(":", "-")
    return f"{model}_{slug(result.backend)[:40]}_{minute}"


def candidates(name: str, first: int = 0) -> Iterator[str]:
    """*name*, then *name* with ``_1``, ``_2`` and so on, from the one of number *first*."""
    for number in itertools.count(first):
        yield f"{name}_{number}" if number else name


def is_of_our_form(name: str) -> bool:
    """Whether a folder of ours may be called *name*."""
    return _NAME.fullmatch(name) is not None


def age_order(name: str) -> tuple[str, int, str]:
    """Sorts names by the time in them, then by suffix; names of another form come last."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        return ("~", 0, name)
    return (parts["time"], int(parts["suffix"] or 0), name)
