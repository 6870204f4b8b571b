"""The delay that spreads a fleet."""

from aura_agent.schedule.jitter import stable_jitter_s


def test_a_job_keeps_its_delay_and_a_fleet_is_spread() -> None:
    """The same host and job give the same delay; a thousand hosts fill the span evenly and stay below its end."""
    delays = [stable_jitter_s(f"host-{number}", "backup", 600) for number in range(1000)]

    assert delays == [stable_jitter_s(f"host-{number}", "backup", 600) for number in range(1000)]
    assert all(0 <= delay < 600 for delay in delays)
    tenths = [sum(tenth * 60 <= delay < tenth * 60 + 60 for delay in delays) for tenth in range(10)]
    assert all(60 < count < 140 for count in tenths)


def test_jobs_of_one_host_differ() -> None:
    """Two jobs at the same time don't start together."""
    assert stable_jitter_s("host", "one", 600) != stable_jitter_s("host", "two", 600)


def test_no_jitter_is_no_delay() -> None:
    """A span of zero gives zero."""
    assert stable_jitter_s("host", "job", 0) == 0
