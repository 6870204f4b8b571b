"""Which job of the config a run belongs to: the rule as a table, and on what a store knows."""

from dataclasses import replace

import pytest

from aura_agent.outbox.run_history import run_owners
from aura_agent.outbox.run_owner import Meanings, RunOwners, Source
from aura_agent.report.record import Outcome
from tests.outbox.stores import Bench

JOBS = {"backup": "nightly", "by-id": "id-mail", "a": "shared", "b": "shared", "auto": "host/report"}
ATTACHED = {"heartbeat:mail": "id-mail", "url:1234": "id-mail", "heartbeat:twice": "id-1", "auto:twice": "id-2"}
CACHED = [("id-nightly", "nightly"), ("id-mail", "mail"), ("id-other", "other"), ("id-3", "same"), ("id-4", "same")]


def candidates(ref: str) -> tuple[str, ...]:
    kind, _, name = ref.partition(":")
    return {"heartbeat": (name,), "auto": (f"host/{name}", name)}.get(kind, ())


@pytest.mark.parametrize(
    ("job", "heartbeat", "owner"),
    [
        ("sh", "nightly", "backup"),
        ("sh", "id-nightly", "backup"),
        ("backup", "nightly", "backup"),
        ("backup", "", "backup"),
        ("sh", "", None),
        ("backup", "other", None),
        ("backup", "unheard-of", None),
        ("backup", "same", None),
        ("sh", "mail", "by-id"),
        ("sh", "1234", "by-id"),
        ("a", "shared", "a"),
        ("b", "shared", "b"),
        ("sh", "shared", None),
        ("report", "report", "auto"),
        ("sh", "twice", None),
        ("backup", "twice", "backup"),
    ],
)
def test_a_run_belongs_to_the_one_job_that_feeds_its_heartbeat(job: str, heartbeat: str, owner: str | None) -> None:
    """Names decide where a heartbeat is shared, missing, or may be either of two."""
    meanings = Meanings(ATTACHED, CACHED, candidates, lambda ref: ref.partition(":")[2])

    assert RunOwners(JOBS, meanings).of(Source(job, heartbeat)) == owner


def test_a_run_with_only_the_name_of_a_job_counts_under_a_name_of_its_own() -> None:
    owners = RunOwners(JOBS, Meanings(ATTACHED, CACHED, candidates, lambda ref: ref.partition(":")[2]))

    assert owners.named(Source("backup", "other")) == "backup (other)"
    assert owners.named(Source("tar", "other")) == "tar"
    assert owners.named(Source("sh", "nightly")) == "backup"


def test_a_heartbeat_reported_by_id_or_url_is_found_through_the_store(at: Bench) -> None:
    """The config has its name; what was reported before the listing counts, too."""
    at.run(ref="heartbeat:id-nightly", change=lambda report: replace(report, job="sh"))
    at.run(ref="url:http://127.0.0.1:9/ping/id-nightly", change=lambda report: replace(report, job="curl"))
    at.know("nightly")
    rows = at.outbox.connection.execute("SELECT job, heartbeat FROM runs ORDER BY started_wall_ns").fetchall()

    owners = run_owners(at.outbox, {"backup": "nightly"})

    assert [owners.of(Source(*row)) for row in rows] == ["backup", "backup"]


def test_a_recovery_is_not_mixed_up_among_lines_with_the_same_program(at: Bench) -> None:
    """Two lines called "sh": the success of one is no recovery of the other."""
    for outcome, heartbeat in ((Outcome.FAILED, "one"), (Outcome.SUCCEEDED, "two"), (Outcome.SUCCEEDED, "one")):
        at.run(outcome, ref=f"heartbeat:{heartbeat}", change=lambda report: replace(report, job="sh"))

    calls = [(call.kind.value, call.heartbeat) for call in at.outbox.take_hook_calls(10)]

    assert calls == [("on_failure", "one"), ("on_recovery", "one")]
