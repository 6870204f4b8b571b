"""From files to a Config, or to everything that is wrong with them.

``conf.d/*.toml`` beside the file are read too, in the order of their names. Each key is set once in all of them, and a
job is in one file as a whole. What ``[defaults]`` says goes into each job that doesn't say it: a job's own key
replaces the default, only the variables of ``env`` are joined one by one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import msgspec

from aura_agent.config.documents import Document, join, key_text, read_documents
from aura_agent.config.lines import Path
from aura_agent.config.models import (
    AgentSettings,
    ApiSettings,
    AttachSettings,
    Config,
    Job,
    JobDefaults,
    JobGroup,
    StatusSettings,
)
from aura_agent.config.report import Findings
from aura_agent.config.shape import Complain, fields_of, finish, nearest, read_table
from aura_agent.errors import AuraError, ConfigError, Problem

_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "api": ApiSettings,
    "agent": AgentSettings,
    "status": StatusSettings,
    "attach": AttachSettings,
    "defaults": JobDefaults,
}


@dataclass(frozen=True, slots=True)
class Examined:
    """What came of reading a config. ``config`` is None if there are problems; ``files`` are those that were read.

    ``problem`` makes one of a message about the key at a path, for what is found out later.
    """

    config: Config | None
    problems: list[Problem]
    warnings: list[Problem]
    files: tuple[str, ...]
    problem: Callable[[Path, str], Problem]


@dataclass(frozen=True, slots=True)
class PartlyRead:
    """As much of a config as can be read. ``problems`` are all that are wrong with it, ``dropped`` the tables left out.

    A key with a wrong value has its default.
    """

    config: Config
    problems: list[Problem]
    dropped: tuple[str, ...]

    def knows_place(self, key: Literal["state_dir", "socket"]) -> bool:
        """Whether it is sure what ``agent.KEY`` says; where it says nothing, a misspelt key may have been meant."""
        return self.is_whole("agent", key) and (getattr(self.config.agent, key) is not None or self.is_whole("agent"))

    def is_whole(self, *path: str) -> bool:
        """Whether nothing is known to be wrong with the key or table at *path*, or around it."""
        if "" in self.dropped:
            return False  # what stood there may have been anything
        wanted = key_text(path)
        broken = [*self.dropped, *(problem.key for problem in self.problems if problem.key)]
        return not any(
            key == wanted or key.startswith((f"{wanted}.", f"{wanted}[")) or wanted.startswith(f"{key}.")
            for key in broken
        )


def read_partly(path: str, *, check_rules: bool = True) -> PartlyRead:
    """Return what can be read of the config at *path*. Raises ConfigError: nothing can."""
    documents, problems = read_documents(path, conf_d=True, partly=True)
    if not any(document.file == path for document in documents):
        raise ConfigError(problems)
    config, findings = _examine(documents, problems, check_rules=check_rules, now=None)
    dropped = tuple(name for document in documents for name in document.dropped)
    return PartlyRead(config, findings.errors(), dropped)


def load_config(path: str | None, *, conf_d: bool = True, check_rules: bool = True) -> Config:
    """Return the config at *path* (None: there is none).

    Raises ConfigError with every problem. Without *check_rules* only the shape is checked, which is quick and asks
    neither the schedule package nor the host.
    """
    examined = examine_config(path, conf_d=conf_d, check_rules=check_rules)
    if examined.config is None:
        raise ConfigError(examined.problems)
    return examined.config


def no_config() -> AuraError:
    """Return the error of a command that needs a config where there is none."""
    return AuraError("there is no config: write /etc/aura-agent/config.toml, or name a file with -c or AURA_CONFIG")


def examine_config(
    path: str | None, *, conf_d: bool = True, check_rules: bool = True, now: datetime | None = None
) -> Examined:
    """Return what is right and wrong with the config at *path*; *now* adds those about the schedules from then on.

    Raises AuraError if *path* is None: there is no config.
    """
    if path is None:
        raise no_config()
    documents, problems = read_documents(path, conf_d=conf_d)
    config, findings = _examine(documents, problems, check_rules=check_rules, now=now)
    errors = findings.errors()
    files = tuple(document.file for document in documents)
    return Examined(None if errors else config, errors, findings.warnings(), files, findings.problem)


def _examine(
    documents: list[Document], problems: list[Problem], *, check_rules: bool, now: datetime | None
) -> tuple[Config, Findings]:
    """Return what *documents* say together as far as it can be read, and what is wrong with it."""
    joined, conflicts = join(documents)
    findings = Findings(documents, [*problems, *conflicts])
    config = _read(joined, findings.error)
    if check_rules:
        from aura_agent.config.rules import check, this_host

        check(config, lambda path, model: _said(joined, path, model), this_host(), findings, now=now)
    return config, findings


def _read(joined: dict[str, object], complain: Complain) -> Config:
    """Return the config as far as it can be read.

    A wrong value leaves its key at the default, so that what else is wrong can still be found.
    """
    sections: dict[str, Any] = {}
    values: dict[str, dict[str, object]] = {name: {} for name in _SECTIONS}
    top = {key: value for key, value in joined.items() if key not in _SECTIONS and key not in ("job_groups", "jobs")}
    read_table(Config, top, (), complain)  # none of these is known: it complains
    for name, model in _SECTIONS.items():
        if name in joined:
            values[name] = read_table(model, joined[name], (name,), complain)
        sections[name] = finish(model, values[name], (name,), complain)
    job_groups: dict[str, JobGroup] = {}
    for name, raw in _tables(joined, "job_groups", "expected tables of groups; write [job_groups.NAME]", complain):
        path = ("job_groups", name)
        group = finish(JobGroup, read_table(JobGroup, raw, path, complain), path, complain)
        if group is not None:
            job_groups[name] = group
    jobs: dict[str, Job] = {}
    for name, raw in _tables(joined, "jobs", "expected tables of jobs; write [jobs.NAME]", complain):
        own = read_table(Job, raw, ("jobs", name), complain)
        job = finish(Job, _inherit(name, own, values["defaults"]), ("jobs", name), complain)
        if job is not None:
            jobs[name] = job
    return Config(**sections, job_groups=job_groups, jobs=jobs)


def _tables(joined: dict[str, object], key: str, expected: str, complain: Complain) -> Iterable[tuple[str, object]]:
    tables = joined.get(key, {})
    if isinstance(tables, dict):
        return tables.items()
    complain((key,), expected)
    return ()


def _inherit(name: str, own: dict[str, object], defaults: dict[str, object]) -> dict[str, object]:
    values = {"heartbeat": name, **defaults, **own}
    env, default_env = own.get("env"), defaults.get("env")
    if isinstance(env, dict) and isinstance(default_env, dict):
        values["env"] = default_env | env
    return values


def _said(joined: dict[str, object], path: Path, model: type[msgspec.Struct]) -> frozenset[str]:
    """Return the keys of the table at *path*; one that is misspelt counts as the one of *model* that was meant."""
    at: object = joined
    for part in path:
        at = at.get(part) if isinstance(at, dict) else None
    fields = fields_of(model)
    keys = at if isinstance(at, dict) else {}
    return frozenset(key if key in fields else nearest(key, fields) or key for key in keys)
