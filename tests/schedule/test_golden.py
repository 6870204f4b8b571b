"""Fire times written down by hand: what a schedule does when the clocks of its zone are changed."""

from zoneinfo import ZoneInfo

import pytest

from aura_agent.schedule.expression import parse
from tests.schedule.times import APIA, BERLIN, GREENWICH, LORD_HOWE, NEW_YORK, at

SPRING = "2027-03-28"  # Berlin: 02:00 CET is 03:00 CEST
AUTUMN = "2026-10-25"  # Berlin: 03:00 CEST is 02:00 CET
AMERICAN_SPRING = "2027-03-14"  # New York: 02:00 EST is 03:00 EDT
AMERICAN_AUTUMN = "2026-11-01"  # New York: 02:00 EDT is 01:00 EST

VECTORS: dict[str, tuple[ZoneInfo, str, str, list[str]]] = {
    "berlin gap, fixed, right after the jump": (
        BERLIN, "30 2 * * *", "2027-03-27T12:00",
        [f"{SPRING}T03:00+02:00", "2027-03-29T02:30+02:00"],
    ),
    "berlin gap, fixed, an hour before and after untouched": (
        BERLIN, "30 1,4 * * *", f"{SPRING}T00:00",
        [f"{SPRING}T01:30+01:00", f"{SPRING}T04:30+02:00", "2027-03-29T01:30+02:00"],
    ),
    "berlin gap, several skipped minutes are one run": (
        BERLIN, "0,20,40 2 * * *", f"{SPRING}T00:00",
        [f"{SPRING}T03:00+02:00", "2027-03-29T02:00+02:00", "2027-03-29T02:20+02:00"],
    ),
    "berlin gap, a skipped time and the one it lands on are one run": (
        BERLIN, "0 2,3 * * *", f"{SPRING}T00:00",
        [f"{SPRING}T03:00+02:00", "2027-03-29T02:00+02:00"],
    ),
    "berlin gap, wildcard, nothing is made up": (
        BERLIN, "*/30 2 * * *", "2027-03-27T12:00",
        ["2027-03-29T02:00+02:00", "2027-03-29T02:30+02:00"],
    ),
    "berlin gap, hourly goes on": (
        BERLIN, "15 * * * *", f"{SPRING}T00:30",
        [f"{SPRING}T01:15+01:00", f"{SPRING}T03:15+02:00", f"{SPRING}T04:15+02:00"],
    ),
    "berlin gap, every two hours misses the one that isn't there": (
        BERLIN, "0 */2 * * *", "2027-03-27T23:00",
        [f"{SPRING}T00:00+01:00", f"{SPRING}T04:00+02:00"],
    ),
    "berlin gap, weekly on that sunday": (
        BERLIN, "30 2 * * SUN", "2027-03-22T00:00",
        [f"{SPRING}T03:00+02:00", "2027-04-04T02:30+02:00"],
    ),
    "berlin gap, not on that day": (
        BERLIN, "30 2 * * MON", "2027-03-27T00:00",
        ["2027-03-29T02:30+02:00", "2027-04-05T02:30+02:00"],
    ),
    "berlin repeat, fixed, at the first pass": (
        BERLIN, "30 2 * * *", f"{AUTUMN}T00:00",
        [f"{AUTUMN}T02:30+02:00", "2026-10-26T02:30+01:00"],
    ),
    "berlin repeat, fixed, a start in the second pass is past it": (
        BERLIN, "30 2 * * *", f"{AUTUMN}T02:10+01:00",
        ["2026-10-26T02:30+01:00"],
    ),
    "berlin repeat, the end of the repeated hour is new": (
        BERLIN, "0 3 * * *", f"{AUTUMN}T00:00",
        [f"{AUTUMN}T03:00+01:00", "2026-10-26T03:00+01:00"],
    ),
    "berlin repeat, wildcard, both passes": (
        BERLIN, "*/30 2 * * *", f"{AUTUMN}T00:00",
        [f"{AUTUMN}T02:00+02:00", f"{AUTUMN}T02:30+02:00", f"{AUTUMN}T02:00+01:00", f"{AUTUMN}T02:30+01:00",
         "2026-10-26T02:00+01:00"],
    ),
    "berlin repeat, hourly goes on": (
        BERLIN, "0 * * * *", f"{AUTUMN}T01:30",
        [f"{AUTUMN}T02:00+02:00", f"{AUTUMN}T02:00+01:00", f"{AUTUMN}T03:00+01:00"],
    ),
    "berlin repeat, every second hour counts both": (
        BERLIN, "0 */2 * * *", f"{AUTUMN}T00:30",
        [f"{AUTUMN}T02:00+02:00", f"{AUTUMN}T02:00+01:00", f"{AUTUMN}T04:00+01:00"],
    ),
    "new york gap, fixed": (
        NEW_YORK, "30 2 * * *", "2027-03-13T12:00",
        [f"{AMERICAN_SPRING}T03:00-04:00", "2027-03-15T02:30-04:00"],
    ),
    "new york gap, wildcard": (
        NEW_YORK, "*/20 2 * * *", "2027-03-13T12:00",
        ["2027-03-15T02:00-04:00"],
    ),
    "new york repeat, fixed": (
        NEW_YORK, "30 1 * * *", "2026-10-31T12:00",
        [f"{AMERICAN_AUTUMN}T01:30-04:00", "2026-11-02T01:30-05:00"],
    ),
    "new york repeat, wildcard": (
        NEW_YORK, "30 */1 * * *", f"{AMERICAN_AUTUMN}T00:40",
        [f"{AMERICAN_AUTUMN}T01:30-04:00", f"{AMERICAN_AUTUMN}T01:30-05:00", f"{AMERICAN_AUTUMN}T02:30-05:00"],
    ),
    "six fields, a leading zero changes nothing in a gap": (
        BERLIN, "0 30 2 * * *", "2027-03-27T12:00",
        [f"{SPRING}T03:00+02:00", "2027-03-29T02:30+02:00"],
    ),
    "six fields, skipped seconds are one run": (
        BERLIN, "*/20 30 2 * * *", "2027-03-27T12:00",
        [f"{SPRING}T03:00+02:00", "2027-03-29T02:30:00+02:00", "2027-03-29T02:30:20+02:00"],
    ),
    "six fields, fixed, at the first pass": (
        BERLIN, "0,30 30 2 * * *", f"{AUTUMN}T00:00",
        [f"{AUTUMN}T02:30:00+02:00", f"{AUTUMN}T02:30:30+02:00", "2026-10-26T02:30:00+01:00"],
    ),
    "six fields, wildcard, both passes": (
        BERLIN, "30 */30 2 * * *", f"{AUTUMN}T00:00",
        [f"{AUTUMN}T02:00:30+02:00", f"{AUTUMN}T02:30:30+02:00", f"{AUTUMN}T02:00:30+01:00"],
    ),
    "lord howe, a gap of half an hour": (
        LORD_HOWE, "15 2 * * *", "2026-10-03T12:00",
        ["2026-10-04T02:30+11:00", "2026-10-05T02:15+11:00"],
    ),
    "lord howe, a repeat of half an hour": (
        LORD_HOWE, "45 1 * * *", "2027-04-03T12:00",
        ["2027-04-04T01:45+11:00", "2027-04-05T01:45+10:30"],
    ),
    "apia, a skipped day is a correction, nothing is made up": (
        APIA, "30 2 * * *", "2011-12-29T00:00",
        ["2011-12-29T02:30-10:00", "2011-12-31T02:30+14:00"],
    ),
    "cairo, midnight doesn't exist": (
        ZoneInfo("Africa/Cairo"), "@daily", "2026-04-23T12:00",
        ["2026-04-24T01:00+03:00", "2026-04-25T00:00+03:00"],
    ),
    "casablanca, back for ramadan and forward after it": (
        ZoneInfo("Africa/Casablanca"), "30 2 * * *", "2025-02-22T12:00",  # years that are over: Morocco changed its rules since
        ["2025-02-23T02:30+01:00", "2025-02-24T02:30+00:00"],
    ),
    "utc knows no daylight saving": (
        GREENWICH, "30 2 * * *", "2027-03-28T00:00",
        ["2027-03-28T02:30+00:00", "2027-03-29T02:30+00:00"],
    ),
    "leap day": (
        BERLIN, "0 12 29 2 *", "2027-01-01T00:00",
        ["2028-02-29T12:00+01:00", "2032-02-29T12:00+01:00"],
    ),
    "leap day past a century without one": (
        GREENWICH, "0 12 29 2 *", "2096-03-01T00:00",
        ["2104-02-29T12:00+00:00"],
    ),
    "fifth friday of february": (
        GREENWICH, "0 12 * 2 5#5", "2026-01-01T00:00",
        ["2036-02-29T12:00+00:00", "2064-02-29T12:00+00:00"],
    ),
    "new year": (
        NEW_YORK, "@yearly", "2026-06-01T00:00",
        ["2027-01-01T00:00-05:00", "2028-01-01T00:00-05:00"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", VECTORS)
def test_fire_times_are_the_ones_written_down(name: str) -> None:
    """The named schedule fires at exactly these instants, in this order."""
    zone, text, start, expected = VECTORS[name]
    expression = parse(text, job="any", zone=zone)

    fires, after = [], at(start, zone)
    for _ in expected:
        after = expression.next_after(after)
        fires.append(after)

    assert [fire.astimezone(zone).isoformat() for fire in fires] == [
        at(time).astimezone(zone).isoformat() for time in expected
    ]


@pytest.mark.parametrize("name", VECTORS)
def test_each_fire_time_can_be_explained_and_recognised(name: str) -> None:
    """A fire time is recognised as one, its neighbour in time isn't, and there are words for it."""
    zone, text, start, _ = VECTORS[name]
    expression = parse(text, job="any", zone=zone)
    fire = expression.next_after(at(start, zone))

    assert expression.fires_at(fire)
    assert expression.explain(fire)
