"""config.example.toml is the reference: it is right, complete, and tells the true defaults."""

import re
import tomllib
from pathlib import Path

import jsonschema
import msgspec
import pytest

from aura_agent.config.load import examine_config
from aura_agent.config.models import (
    HOOKS,
    AgentSettings,
    ApiSettings,
    AttachSettings,
    Config,
    Expect,
    ExpectFile,
    Hook,
    Job,
    JobDefaults,
    JobGroup,
    Limits,
    StatusSettings,
    UndeliverableHook,
    Watch,
    WatchFile,
    WatchProcess,
)
from aura_agent.config.schema import json_schema
from aura_agent.daemon.agent import AT_START

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
COMMENTED = re.compile(r"^# (?=[a-z_]+ +=)", re.MULTILINE)


def uncommented() -> str:
    return COMMENTED.sub("", EXAMPLE.read_text())


def stands_in(tree: dict[str, object], *path: str) -> set[str]:
    at: object = tree
    for part in path:
        assert isinstance(at, dict)
        at = at[part]
    assert isinstance(at, dict)
    return set(at)


def test_the_example_is_right() -> None:
    """Nothing is wrong with it, and nothing looks wrong either."""
    examined = examine_config(str(EXAMPLE))

    assert [str(problem) for problem in examined.problems] == []
    assert [str(problem) for problem in examined.warnings] == []
    assert examined.config is not None
    assert list(examined.config.jobs) == ["backup", "postgres", "exports", "certificates"]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        (ApiSettings, ("api",)),
        (AgentSettings, ("agent",)),
        (StatusSettings, ("status",)),
        (AttachSettings, ("attach",)),
        (JobDefaults, ("defaults",)),
        (JobGroup, ("job_groups", "database")),
        (Limits, ("defaults", "limits")),
        (Hook, ("defaults", "on_failure")),
        (ExpectFile, ("jobs", "backup", "expect", "file")),
        (WatchProcess, ("jobs", "postgres", "watch", "process")),
        (WatchFile, ("jobs", "exports", "watch", "file")),
    ],
)
def test_each_key_of_a_table_is_in_the_example(model: type[msgspec.Struct], path: tuple[str, ...]) -> None:
    """A key that is added to a model has to be explained."""
    assert stands_in(tomllib.loads(uncommented()), *path) == set(model.__struct_fields__)


def test_each_key_of_a_hook_is_in_the_example() -> None:
    """on_undeliverable has all that the others have, and how long a ping may wait."""
    shown = stands_in(tomllib.loads(uncommented()), "defaults", "on_undeliverable")

    assert shown | set(Hook.__struct_fields__) == set(UndeliverableHook.__struct_fields__)


def test_the_example_calls_no_hook() -> None:
    """As it is, each is at its default: a lost run would call what a failure does."""
    config = examine_config(str(EXAMPLE)).config

    assert config is not None
    assert [getattr(config.defaults, key) for key in HOOKS] == [None] * len(HOOKS)


def test_each_key_of_a_job_is_in_the_example() -> None:
    """What can't stand in [defaults] is shown in one job or another, and so is each kind of table."""
    tree = tomllib.loads(uncommented())
    shown = set().union(*(stands_in(tree, "jobs", name) for name in stands_in(tree, "jobs")))

    assert set(Job.__struct_fields__) - set(JobDefaults.__struct_fields__) <= shown
    assert stands_in(tree, "jobs", "postgres", "watch") | stands_in(tree, "jobs", "exports", "watch") == set(
        Watch.__struct_fields__
    )
    assert stands_in(tree, "jobs", "backup", "expect") == set(Expect.__struct_fields__)
    assert stands_in(tree) == set(Config.__struct_fields__)


def test_what_the_example_shows_as_a_default_is_the_default(tmp_path: Path) -> None:
    """With all comments taken away the shape is right, and a key that has a default shows just that."""
    full = tmp_path / "config.toml"
    full.write_text(uncommented())
    config = examine_config(str(full), check_rules=False).config

    assert config is not None
    for section, model in (("api", ApiSettings), ("agent", AgentSettings), ("status", StatusSettings)):
        assert_defaults(getattr(config, section), model())
    assert_defaults(config.defaults, JobDefaults())


def assert_defaults(shown: msgspec.Struct, default: msgspec.Struct) -> None:
    for key in default.__struct_fields__:
        value = getattr(default, key)
        if value is not None:
            assert (key, getattr(shown, key)) == (key, value)


@pytest.mark.parametrize("text", [EXAMPLE.read_text(), uncommented()], ids=["as it is", "without comments"])
def test_the_schema_takes_the_example(text: str) -> None:
    """Editors that know the schema show no error in it."""
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)

    jsonschema.validate(tomllib.loads(text), schema)


@pytest.mark.parametrize(
    "wrong",
    [
        'unknown = "x"',
        "[jobs.a]\nevery = 60",
        '[jobs.a]\nevery = "2 hours"',
        '[jobs.a]\noverlap = "never"',
        '[jobs."a b"]\nevery = "1h"',
        "[jobs.a]\nsuccess_codes = [256]",
        '[jobs.a]\ntail_bytes = "10"',
        "[jobs.a]\nschedule = []",
    ],
)
def test_the_schema_refuses_what_check_refuses(wrong: str) -> None:
    """Units, bounds, choices and unknown keys are in the schema."""
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(wrong), json_schema())


def test_the_schema_speaks_toml() -> None:
    """There is no null in it, and the defaults of durations and sizes are written with a unit."""
    text = str(json_schema())
    defaults = json_schema()["$defs"]["JobDefaults"]["properties"]

    assert "null" not in text
    assert "None" not in text
    assert defaults["kill_after"]["default"] == "10s"
    assert defaults["misfire_grace"]["default"] == "1m"
    assert defaults["tail_bytes"]["default"] == "10kB"
    assert defaults["kill_after"]["description"]


def test_it_tells_which_keys_only_a_restart_changes() -> None:
    """All of them, and no other."""
    sentence = re.search(r"A reload takes in all changes but those of (.*?):", EXAMPLE.read_text(), re.DOTALL)

    assert sentence is not None
    assert set(re.findall(r"[a-z]+_[a-z_]+|socket|listen", sentence[1])) == {key for _, key in AT_START}
