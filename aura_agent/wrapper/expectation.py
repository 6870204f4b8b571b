"""The expectation of a config's job, looked at when the job has ended. Loaded while the job runs."""

from datetime import UTC, datetime

from aura_agent.watch.expect import expect_file


def unmet_expectation(expect: dict[str, str], started_ns: int) -> str:
    """Return what the run should have brought about and didn't; empty when all is well."""
    newer = expect.get("expect_newer_than", "start")
    condition = expect_file(
        path=expect["expect_path"],
        started_at=datetime.fromtimestamp(started_ns / 1e9, UTC),
        now=datetime.now(UTC),
        newer_than_s=None if newer == "start" else float(newer),
        min_size_bytes=int(expect["expect_min_bytes"]) if "expect_min_bytes" in expect else None,
    )
    return "" if condition.healthy else condition.reason
