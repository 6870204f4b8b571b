"""Instants that are told by others: none of this boot is in the future, and no run ends before it begins."""

from dataclasses import replace

import pytest

from aura_agent.clock import Reading
from aura_agent.report.record import in_the_past
from tests.reports import report_of

_NOW = Reading(1000, 5000)


@pytest.mark.parametrize(
    ("started", "ended", "expected"),
    [
        (Reading(900, 4900), Reading(1000, 5000), (Reading(900, 4900), Reading(1000, 5000))),
        (Reading(900, 4900), Reading(1001, 5001), (Reading(900, 4900), _NOW)),
        (Reading(2000, 4000), Reading(3000, 6000), (Reading(1000, 4000), _NOW)),
        (Reading(900, 4900), Reading(800, 4950), (Reading(900, 4900), Reading(900, 4950))),
    ],
    ids=["past", "end ahead", "both ahead", "end before start"],
)
def test_instants_of_this_boot_are_clamped_to_now(
    started: Reading, ended: Reading, expected: tuple[Reading, Reading]
) -> None:
    """The order is kept: of what is ahead nothing is known but that it is not later than now."""
    report = replace(report_of("a" * 32, started), boot_id="here", ended=ended)

    clamped = in_the_past(report, "here", _NOW)

    assert (clamped.started, clamped.ended) == expected
    assert (clamped is report) == (expected == (started, ended))


def test_instants_of_another_boot_are_not_compared_with_now() -> None:
    """Its CLOCK_BOOTTIME has nothing to do with ours."""
    report = replace(report_of("a" * 32, Reading(9000, 1)), boot_id="elsewhere", ended=Reading(9001, 2))

    assert in_the_past(report, "here", _NOW) is report
