"""Times without a zone: local ones of the machine that wrote them."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo

from llem.codec.naive import read_as_utc
from llem.errors import ConfigError
from llem.importing.draft import Draft, number, part_of

STEP = timedelta(minutes=30)
"""What nearly all zones are whole multiples of from UTC."""

SLACK = timedelta(minutes=2)
"""How long before or after a run the age of its baseline may have been taken."""

FARTHEST = timedelta(hours=14)
"""Farthest that a zone is from UTC."""


def zone_of(name: str) -> tzinfo:
    """
    The zone called *name*: ``Europe/Berlin``, ``UTC``, or an offset such as ``+02:00``.

    Raises:
        ConfigError: There is no such zone, or this system does not know it.
    """
    try:
        if re.fullmatch(r"[+-]\d\d:?\d\d", name):
            return datetime.strptime(name, "%z").tzinfo or UTC
        return UTC if name == "UTC" else ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"--timezone: {name!r} is no time zone that this system knows; give its name, such as "
            "Europe/Berlin, or the offset from UTC, such as +02:00"
        ) from None


def take_zone(draft: Draft, zone: tzinfo) -> None:
    """Have every time in *zone*, where none has a zone; what the source suggests is noted."""
    in_utc = read_as_utc(draft.values)
    if in_utc is None:
        return
    draft.notes.append(f"start_time: times have no zone there, {_told(draft.values, zone)}")
    draft.values = in_utc if zone is UTC else _in_zone(draft.values, in_utc, zone)


def _told(values: Mapping[str, Any], zone: tzinfo) -> str:
    """How times are read, and what speaks against it."""
    said = f"and were read as {'UTC' if zone is UTC else f'of {zone}'}"
    if zone is UTC:
        said += "; --timezone names another zone"
    suggested = suggested_offset(values)
    start = _moment(values.get("start_time"))
    if suggested is None or start is None or start.replace(tzinfo=zone).utcoffset() == suggested:
        return said
    return f"{said}; baseline_timestamp and its age suggest {_shown(suggested)}"


def suggested_offset(values: Mapping[str, Any]) -> timedelta | None:
    """
    How far local times were from UTC, by the baseline's: it has a zone, and an age at the run.

    None where it tells nothing, or more than one offset fits.
    """
    breakdown = part_of(values, "energy_breakdown")
    taken = _moment(breakdown.get("baseline_timestamp"))
    age_s = number(breakdown.get("baseline_cache_age_sec"))
    start, end = _moment(values.get("start_time")), _moment(values.get("end_time"))
    if taken is None or taken.tzinfo is None or age_s is None or start is None or end is None:
        return None
    try:
        then = taken.astimezone(UTC).replace(tzinfo=None) + timedelta(seconds=age_s)
        least, most = (start - then - SLACK) / STEP, (end - then + SLACK) / STEP
    except (OverflowError, TypeError, ValueError):
        return None
    first = math.ceil(least)
    found = first * STEP
    return found if first == math.floor(most) and abs(found) <= FARTHEST else None


def _in_zone(before: Any, after: Any, zone: tzinfo) -> Any:
    """*after*, its times in *zone* that have none in *before*."""
    if before is after:
        return after
    if isinstance(after, dict):
        return {name: _in_zone(before[name], value, zone) for name, value in after.items()}
    if isinstance(after, list):
        return [_in_zone(one, other, zone) for one, other in zip(before, after, strict=True)]
    return datetime.fromisoformat(before).replace(tzinfo=zone).isoformat()


def _moment(value: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None


def _shown(offset: timedelta) -> str:
    return str(timezone(offset)).removeprefix("UTC") or "UTC"
