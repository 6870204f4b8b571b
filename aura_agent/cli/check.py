"""``aura-agent check``: whether the config is right, and what looks wrong although it is; ``--online`` also holds it
against what Aura has.
"""

import json
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from aura_agent.cli.output import say
from aura_agent.cli.problems import problem_row
from aura_agent.errors import AuraError, ConfigError, Problem

if TYPE_CHECKING:
    from aura_agent.config.load import Examined

_EXAMPLE = """\b
Examples:
  aura-agent check
  aura-agent check --online
  aura-agent check -c ./config.toml --json
  aura-agent check --schema > aura-agent.schema.json
"""


@click.command("check", epilog=_EXAMPLE)
@click.option("-c", "--config", "config_file", metavar="FILE", help="The config; default: the usual place.")
@click.option("--online", is_flag=True, help="If it is right, hold it against the heartbeats that Aura has.")
@click.option("--json", "as_json", is_flag=True, help="Print an object with `ok`, `problems` and `warnings`.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of the config, and check nothing.")
def check(config_file: str | None, *, online: bool, as_json: bool, schema: bool) -> None:
    """Validate the config: exit 0 if it is right, 1 with everything that is wrong.

    With --online it is also wrong if Aura lacks a heartbeat or has its name twice, if the token is refused, or if a
    job's fire times lie further apart than the heartbeat allows. It warns of runs that may take too long for the
    heartbeat, of alarms that would come late, of paused heartbeats, and of those that something else feeds too.
    """
    if schema:
        from aura_agent.config.schema import json_schema

        click.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))
        return
    from aura_agent.clock import SystemClock
    from aura_agent.config.load import examine_config
    from aura_agent.config.settings import config_path

    try:
        examined = examine_config(config_path(config_file, os.environ), now=SystemClock().read().wall)
    except AuraError as problem:
        if not as_json:
            raise
        problems = problem.problems if isinstance(problem, ConfigError) else [Problem(str(problem))]
        _print_json(problems, [], files=(), jobs=None)
        sys.exit(1)
    problems, warnings = examined.problems, [*examined.warnings, *_about_access(examined)]
    if online and examined.config is not None:
        problems, more = _about_aura(examined)
        warnings = [warning for warning in warnings if str(warning) not in set(map(str, problems))] + more
    if as_json:
        jobs = None if examined.config is None else len(examined.config.jobs)
        _print_json(problems, warnings, files=examined.files, jobs=jobs)
        sys.exit(1 if problems else 0)
    for warning in warnings:
        say(f"warning: {warning}", err=True)
    if problems or examined.config is None:
        raise ConfigError(problems)
    count = len(examined.config.jobs)
    say(f"ok: {count} {'job' if count == 1 else 'jobs'}")


def _about_aura(examined: "Examined") -> tuple[list[Problem], list[Problem]]:
    """Return what is wrong and what looks wrong with the heartbeats that the config names, as Aura has them."""
    from aura_agent.cli.online import compare

    assert examined.config is not None
    try:
        errors, warnings = compare(examined.config)
    except ConfigError as problem:
        return problem.problems, []
    except AuraError as problem:
        return [Problem(str(problem))], []
    return (
        [examined.problem(found.path, found.message) for found in errors],
        [examined.problem(found.path, found.message) for found in warnings],
    )


def _about_access(examined: "Examined") -> list[Problem]:
    """Return what stands between this config and the API, as far as this user and environment can tell."""
    from aura_agent.config.settings import base_url, find_token

    if examined.config is None:
        return []
    warnings: list[Problem] = []
    try:
        base_url(examined.config.api, os.environ)
        token = find_token(examined.config.api, os.environ, warn=lambda text: warnings.append(Problem(text)))
    except ConfigError as problem:
        return [*warnings, *problem.problems]
    if token is None:
        warnings.append(Problem("no API token; set token_file in [api], or AURA_TOKEN_FILE"))
    return warnings


def _print_json(
    problems: Iterable[Problem], warnings: Iterable[Problem], *, files: tuple[str, ...], jobs: int | None
) -> None:
    rows = {"problems": [problem_row(item) for item in problems], "warnings": [problem_row(item) for item in warnings]}
    answer = {"ok": not rows["problems"], "files": list(files), "jobs": jobs, **rows}
    click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
