"""Times without a zone, and the zone that they are read in."""

import json
from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from llem.errors import ConfigError
from llem.importing import convert
from llem.importing.zone import suggested_offset, zone_of

BERLIN = ZoneInfo("Europe/Berlin")


def note(imported):
    """What is noted of the times."""
    (found,) = (note for note in imported.notes if note.startswith("start_time: "))
    return found


def values(age_s=3600.0, hours=2.0, run_s=60.0):
    """A run whose local time is *hours* from UTC, with a baseline of that age."""
    start = datetime.fromisoformat("2026-05-04T09:30:00")
    taken = start.replace(tzinfo=UTC) - timedelta(hours=hours, seconds=age_s)
    return {
        "start_time": start.isoformat(),
        "end_time": (start + timedelta(seconds=run_s)).isoformat(),
        "energy_breakdown": {
            "baseline_timestamp": taken.isoformat(),
            "baseline_cache_age_sec": age_s,
        },
    }


def test_times_are_read_in_a_zone(each):
    """All that have none; the others keep theirs."""
    plain = each.plain

    result = convert(each.file.read_bytes(), beside=each.beside, timezone=BERLIN).result

    assert result.start_time == datetime.fromisoformat(plain["start_time"]).replace(tzinfo=BERLIN)
    assert result.end_time == datetime.fromisoformat(plain["end_time"]).replace(tzinfo=BERLIN)
    for process, theirs in zip(
        result.process_results, plain.get("process_results", ()), strict=True
    ):
        start = datetime.fromisoformat(theirs["timestamps"]["start"])
        assert process.timestamps.start == start.replace(tzinfo=BERLIN)
    assert result.energy_breakdown.baseline_timestamp == datetime.fromisoformat(
        plain["energy_breakdown"]["baseline_timestamp"]
    )


def test_utc_is_taken_where_no_zone_is_named(v5):
    """The note names the option, and the offset that the baseline suggests."""
    assert note(v5.convert()) == (
        "start_time: times have no zone there, and were read as UTC; --timezone names another "
        "zone; baseline_timestamp and its age suggest +02:00"
    )


def test_a_zone_that_the_baseline_suggests_too(v5):
    """There is nothing more to say."""
    imported = convert(v5.file.read_bytes(), timezone=BERLIN)

    assert note(imported) == (
        "start_time: times have no zone there, and were read as of Europe/Berlin"
    )


def test_a_zone_that_the_baseline_speaks_against(v5):
    imported = convert(v5.file.read_bytes(), timezone=timezone(timedelta(hours=-5)))

    assert note(imported).endswith("as of UTC-05:00; baseline_timestamp and its age suggest +02:00")


@pytest.mark.parametrize("hours", [-9.5, -5, 0, 1, 2, 5.5, 14])
def test_the_offset_that_a_baseline_suggests(hours):
    """Its time in UTC and its age give the run's in UTC, to the half hour."""
    assert suggested_offset(values(hours=hours)) == timedelta(hours=hours)


@pytest.mark.parametrize(
    "told",
    [
        values(run_s=3600.0),
        values(hours=2.25),
        values(hours=20),
        values() | {"end_time": None},
        values() | {"energy_breakdown": None},
        values() | {"energy_breakdown": {"baseline_timestamp": "2026-05-04T07:28:03Z"}},
        values(hours=0) | {"start_time": "2026-05-04T09:30:00Z"},
    ],
)
def test_a_baseline_that_suggests_nothing(told):
    """A long run, an offset that no zone has, or a part that is missing."""
    assert suggested_offset(told) is None


def test_times_that_have_a_zone_keep_it(v5):
    """The zone that is named is for others."""
    document = v5.plain
    for edge in ("start_time", "end_time"):
        document[edge] += "+01:00"

    result = convert(json.dumps(document), timezone=BERLIN).result

    assert result.start_time == datetime.fromisoformat(document["start_time"])


@pytest.mark.parametrize(
    ("name", "hours"), [("UTC", 0), ("+02:00", 2), ("-0530", -5.5), ("Europe/Berlin", 2)]
)
def test_names_of_zones(name, hours):
    """As IANA has them, UTC, and offsets."""
    summer = datetime(2026, 7, 1, tzinfo=zone_of(name))

    assert summer.utcoffset() == timedelta(hours=hours)


@pytest.mark.parametrize(
    "name", ["", "Europe", "Mars/Base", "+25:00", "+2", "/etc/passwd", "..", "\0"]
)
def test_names_of_no_zone(name):
    with pytest.raises(ConfigError, match="is no time zone that this system knows"):
        zone_of(name)
