"""The report of a run, for whoever has to have one."""

from aura_agent.clock import Reading
from aura_agent.report.boots import current_boot_id
from aura_agent.report.record import Outcome, Report


def report_of(
    run_id: str,
    at: Reading,
    outcome: Outcome = Outcome.SUCCEEDED,
    *,
    ref: str = "heartbeat:backup",
    job: str = "backup",
    ended: Reading | None = None,
) -> Report:
    """Return what a run of this boot amounts to that begins *at* that instant, and ends then if nothing else is said."""
    return Report(
        run_id=run_id,
        boot_id=current_boot_id(),
        started=at,
        ended=ended or at,
        outcome=outcome,
        ref=ref,
        job=job,
    )
