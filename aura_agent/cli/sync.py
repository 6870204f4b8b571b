"""``aura-agent sync``: bring the heartbeats that the config declares to Aura. What to do is planned in
``aura_agent.sync``; here it is shown, asked about, and done one by one.
"""

import asyncio
import sys
from collections.abc import Collection, Mapping

import click
from msgspec import UNSET

from aura_agent.api import ApiError, AuraClient, BadRequest, Conflict, Heartbeat, NotFound
from aura_agent.cli.declared import Declared, examine, look_up
from aura_agent.cli.output import say
from aura_agent.cli.problems import problem_row
from aura_agent.cli.settings import config_option, json_option, open_api, print_json
from aura_agent.config.models import Config
from aura_agent.config.schema import write_duration
from aura_agent.config.shape import quoted
from aura_agent.errors import AuraError, ConfigError, Problem
from aura_agent.sync.plan import Step

_ITS_OWN = (BadRequest, NotFound, Conflict)  # these say nothing about other heartbeats
_Failure = tuple[Step, ApiError]
_SIGNS = {"create": "+", "update": "~", "keep": "="}


@click.command("sync")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("-y", "--yes", is_flag=True, help="Don't ask, also on a terminal.")
@config_option
@json_option
def sync(config_file: str | None, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Create and update the heartbeats that the config declares: name, interval and grace.

    Shows first what it is about to do: + create, ~ change, = leave. On a terminal it then asks; without one, as in CI,
    it goes on. It changes interval and grace of what the config names and nothing else; it deletes and renames nothing.

    Example: aura-agent sync --dry-run
    """
    examined, config = examine(config_file)
    declared = asyncio.run(_look_up(config))
    changes = [step for step in declared.steps if step.action != "keep"]
    asks = bool(changes) and not (dry_run or yes) and sys.stdin.isatty()
    if asks or not as_json:
        _show(declared.steps, err=as_json)
    problems = [examined.problem(found.path, found.message) for found in (*declared.unclear, *declared.impossible)]
    done: dict[Step, Heartbeat] = {}
    if not problems and changes and not dry_run:
        if asks and not click.confirm("Do it?", err=True):
            raise AuraError("nothing was changed")
        done, failures = asyncio.run(_write(changes, config, quiet=as_json))
        problems = _tell_failures(changes, done, failures)
    if as_json:
        rows = [_row(step, done) for step in declared.steps]
        print_json({"ok": not problems, "problems": [problem_row(item) for item in problems], "heartbeats": rows})
        sys.exit(1 if problems else 0)
    if problems:
        raise ConfigError(problems)


async def _look_up(config: Config) -> Declared:
    async with open_api(config) as client:
        return await look_up(config, client)


async def _write(changes: list[Step], config: Config, *, quiet: bool) -> tuple[dict[Step, Heartbeat], list[_Failure]]:
    """Write one by one; return what was done, each with what Aura has now, and what failed.

    The first failure that isn't one heartbeat's own ends it.
    """
    done: dict[Step, Heartbeat] = {}
    failures: list[_Failure] = []
    async with open_api(config) as client:
        for step in changes:
            try:
                now = await _write_one(step, client)
            except ApiError as problem:
                failures.append((step, problem))
                if isinstance(problem, _ITS_OWN):
                    continue
                break
            done[step] = now
            if not quiet:
                say(f"{'created' if step.action == 'create' else 'changed'} {quoted(step.target.name)}")
            if (odd := _odd(step, now)) != "":
                say(f"warning: {odd}", err=True)
    return done, failures


async def _write_one(step: Step, client: AuraClient) -> Heartbeat:
    interval_s = UNSET if step.new_interval_s is None else step.new_interval_s
    grace_s = UNSET if step.new_grace_s is None else step.new_grace_s
    heartbeat = step.target.heartbeat
    if heartbeat is None:
        return await client.create_heartbeat(
            name=step.target.name, expected_interval_s=interval_s, grace_period_s=grace_s
        )
    return await client.update_heartbeat(heartbeat.id, expected_interval_s=interval_s, grace_period_s=grace_s)


def _tell_failures(changes: list[Step], done: Collection[Step], failures: list[_Failure]) -> list[Problem]:
    """Return what to say of *failures*: one line each, and in the last one what that leaves undone."""
    if not failures:
        return []
    # What wasn't plainly refused may have been done all the same.
    if not done and all(problem.status is not None and problem.status < 500 for _, problem in failures):
        outcome = "nothing was changed"
    else:
        left = ", ".join(quoted(step.target.name) for step in changes if step not in done)
        outcome = f"{len(done)} of {len(changes)} done; not done: {left}"
    *others, last = [f"{quoted(step.target.name)}: {problem}" for step, problem in failures]
    return [Problem(text) for text in (*others, f"{outcome}; {last}")]


def _odd(step: Step, now: Heartbeat) -> str:
    """Return how Aura's answer differs from what was asked for: without a word, the next sync would change it again."""
    for what, wanted_s, got_s in (
        ("interval", step.interval_s, now.expected_interval_s),
        ("grace", step.grace_s, now.grace_period_s),
    ):
        if wanted_s is not None and got_s is not None and wanted_s != got_s:
            return (
                f"Aura made {what} {write_duration(got_s)} of {write_duration(wanted_s)} for {quoted(step.target.name)}"
            )
    return ""


def _show(steps: list[Step], *, err: bool) -> None:
    for step in steps:
        say(f"{_SIGNS[step.action]} {quoted(step.target.name)}{_details(step)}", err=err)
    counts = [sum(step.action == action for step in steps) for action in ("create", "update", "keep")]
    say(f"{counts[0]} to create, {counts[1]} to change, {counts[2]} as it should be", err=err)


def _details(step: Step) -> str:
    if step.action == "keep":
        return ""
    old_interval_s, old_grace_s = _old(step)
    parts = [
        _change("interval", old_interval_s, step.new_interval_s),
        _change("grace", old_grace_s, step.new_grace_s),
    ]
    feeder = step.target.feeder
    why = feeder.label if feeder.timing is None else f"{feeder.label}: {feeder.timing.text()}"
    return f": {', '.join(part for part in parts if part)} ({why})"


def _old(step: Step) -> tuple[float | None, float | None]:
    """Return the interval and the grace that Aura has."""
    heartbeat = step.target.heartbeat
    return (None, None) if heartbeat is None else (heartbeat.expected_interval_s, heartbeat.grace_period_s)


def _change(what: str, old_s: float | None, new_s: int | None) -> str:
    if new_s is None:
        return ""
    return f"{what} " + ("" if old_s is None else f"{write_duration(old_s)} → ") + write_duration(new_s)


def _row(step: Step, done: Mapping[Step, Heartbeat]) -> dict[str, object]:
    target, feeder = step.target, step.target.feeder
    heartbeat = done.get(step, target.heartbeat)
    old_interval_s, old_grace_s = _old(step)
    return {
        "heartbeat": target.name,
        "id": None if heartbeat is None else heartbeat.id,
        "action": step.action,
        "done": step in done,
        "interval_s": {"old": old_interval_s, "new": step.interval_s},
        "grace_s": {"old": old_grace_s, "new": step.grace_s},
        "feeders": [one.label for one in target.feeders],
        "why": None if feeder.timing is None else feeder.timing.text(),
    }
