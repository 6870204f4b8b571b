"""How ``aura-agent discover`` shows what it proposes and has done: lines and tables for people, rows for JSON."""

import difflib
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aura_agent.cli.output import on_one_line, say
from aura_agent.cli.settings import print_table
from aura_agent.discover.changes import FileResult, Written
from aura_agent.discover.host import own_name
from aura_agent.discover.plan import Change, Job, Left, Shape
from aura_agent.discover.unwrap import TakenOut
from aura_agent.report.places import SYSTEM_CONFIG
from aura_agent.units import format_duration


def show_changes(changes: Iterable[Change]) -> None:
    """Print a unified diff of each file."""
    for change in changes:
        for line in _diff(change):
            say(line)


def show_jobs(jobs: Sequence[Job], *, empty: str = "nothing to propose") -> None:
    print_table(
        ["job", "heartbeat", "at least every", "where", "user", "note"],
        [
            [
                *(job.name, job.heartbeat, format_duration(job.interval_s), job.where, job.user or ""),
                "; ".join(job.notes),
            ]
            for job in jobs
        ],
        empty=empty,
    )


def show_taken_out(taken_out: Sequence[TakenOut]) -> None:
    print_table(
        ["where", "heartbeat", "command, without aura-run"],
        [[item.where, item.heartbeat, item.command] for item in taken_out],
        empty="nothing has aura-run",
    )


def show_left(left: Sequence[Left]) -> None:
    if left:
        print_table(
            ["left alone", "why", "command"], [[item.where, item.reason, item.command] for item in left], empty=""
        )


def show_written(written: Written | None) -> None:
    """Print how many files were written, and on stderr which weren't, and why."""
    if written is None:
        return
    for result in written.left:
        say(f"aura-agent: {result_text(result)}; left alone", err=True)
    total = len(written.done) + len(written.left)
    count = f"{total} {'file' if total == 1 else 'files'}"
    count = f"all of {count}" if not written.left else f"{len(written.done)} of {count}"
    kept = f"; the files as they were are in {written.backup}" if written.backup else ""
    say(f"Written: {count}{kept}")


def hints(jobs: Sequence[Job], shape: Shape, *, config_exists: bool) -> Iterator[str]:
    """Yield what a newcomer would otherwise find out later."""
    if shape == "crontab" and any(not job.where.endswith(".timer") for job in jobs):
        yield "cron goes on mailing what a job prints; aura-run -q holds it back unless the job fails"
    others = {job.user for job in jobs if job.user is not None} - {"root", own_name()}
    if shape == "crontab" and others:
        names = ", ".join(f'"{on_one_line(user)}"' for user in sorted(others))
        yield f'the daemon takes reports of these users only if [agent] says so: reporters = ["root", {names}]'
    if jobs and not config_exists:
        yield f"there is no {SYSTEM_CONFIG} yet: until it names a token_file in [api], nothing can be pinged"


def silence_text(heartbeats: Sequence[str], *, done: bool = True) -> str:
    """Return which heartbeats alarm from now on, or once it is *done*, and what to do."""
    names = ", ".join(on_one_line(heartbeat) for heartbeat in heartbeats)
    when = "No ping comes any more" if done else "After that no ping comes"
    return (
        f"{when} for: {names}. Aura alarms after interval + grace: pause these heartbeats in Aura, or delete them:"
        " aura-agent api heartbeats list; aura-agent api heartbeats delete ID"
    )


def result_text(result: FileResult) -> str:
    return f"{on_one_line(result.path)}: {on_one_line(result.problem)}"


def job_rows(jobs: Iterable[Job]) -> list[dict[str, Any]]:
    return [
        {
            "name": job.name,
            "heartbeat": job.heartbeat,
            "where": job.where,
            "when": job.when,
            "interval_s": job.interval_s,
            "user": job.user,
            "command": job.command,
            "notes": list(job.notes),
        }
        for job in jobs
    ]


def change_rows(
    changes: Iterable[Change], left: Iterable[Left], unreadable: Sequence[str], written: Written | None
) -> dict[str, Any]:
    """Return what changes, what doesn't and what was written, as JSON has it."""
    return {
        "left_alone": [{"where": item.where, "command": item.command or None, "reason": item.reason} for item in left],
        "changes": [{"path": change.path, "before": change.before, "after": change.after} for change in changes],
        "unreadable": list(unreadable),
        "ok": written is None or not written.left,
        "not_written": [] if written is None else file_rows(written.left),
        "backup": None if written is None else written.backup,
    }


def taken_out_rows(taken_out: Iterable[TakenOut]) -> list[dict[str, Any]]:
    return [{"where": item.where, "command": item.command, "heartbeat": item.heartbeat or None} for item in taken_out]


def file_rows(results: Iterable[FileResult]) -> list[dict[str, Any]]:
    return [{"path": result.path, "problem": result.problem or None} for result in results]


def in_utf8(value: object) -> object:
    """Return *value* with a replacement character for each byte of a file that is no UTF-8: JSON knows no others."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if isinstance(value, list):
        return [in_utf8(item) for item in value]
    return {key: in_utf8(item) for key, item in value.items()} if isinstance(value, dict) else value


def _diff(change: Change) -> Iterator[str]:
    """Yield the lines of a unified diff, for people: a terminal is not moved by what is in them."""
    before, after = (
        [] if text is None else text.removesuffix("\n").split("\n") for text in (change.before, change.after)
    )
    old, new = (os.devnull if text is None else change.path for text in (change.before, change.after))
    for line in difflib.unified_diff(before, after, old, new, lineterm="", n=1):
        yield on_one_line(line.replace("\t", "    "))
