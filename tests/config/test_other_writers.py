"""Files that decide what the agent does and that others can change are not used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aura_agent.config.load import load_config, read_partly
from aura_agent.config.models import ApiSettings
from aura_agent.config.settings import find_token, webhook_url
from aura_agent.errors import ConfigError
from aura_agent.other_writers import other_writer
from aura_agent.process.envfile import read_env_file
from tests.machine import needs, root, tmpfs

JOBS = '[jobs.a]\nevery = "1h"\ncommand = ["true"]\n'
_NOBODY = 65534


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "config.toml"
    path.parent.mkdir(mode=0o755)
    path.write_text(JOBS)
    path.chmod(0o644)
    return path


def _others(path: Path) -> str:
    return other_writer(str(path), path.stat())


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o444])
def test_a_file_that_only_its_owner_writes_is_used(config: Path, mode: int) -> None:
    config.chmod(mode)

    assert load_config(str(config)).jobs.keys() == {"a"}


@pytest.mark.parametrize("mode", [0o666, 0o602])
def test_a_config_that_everybody_can_write_is_refused_by_name(config: Path, mode: int) -> None:
    """The line names the file and what is wrong; commands that only look warn who isn't root."""
    config.chmod(mode)

    with pytest.raises(ConfigError) as caught:
        load_config(str(config))

    assert str(caught.value).startswith(f"{config}: everybody can write to it, so others decide what we do: ")
    if os.geteuid() == 0:  # the store that it names would be somebody else's choice
        with pytest.raises(ConfigError, match="everybody can write to it"):
            read_partly(str(config))
    else:
        read = read_partly(str(config))
        assert read.config.jobs.keys() == {"a"}
        assert [str(problem) for problem in read.problems] == [str(caught.value)]


def test_a_file_of_conf_d_counts_like_the_config(config: Path) -> None:
    more = config.parent / "conf.d" / "more.toml"
    more.parent.mkdir()
    more.write_text(JOBS.replace("jobs.a", "jobs.b"))
    more.chmod(0o646)

    with pytest.raises(ConfigError, match=r"more.toml: everybody can write to it"):
        load_config(str(config))


def test_a_directory_that_others_can_write_counts_like_the_file(config: Path) -> None:
    """Its file could be exchanged; with the sticky bit it couldn't."""
    config.parent.chmod(0o777)
    assert _others(config).startswith(f"{config.parent}: everybody can write to it")

    config.parent.chmod(0o1777)
    assert _others(config) == ""


def test_a_link_is_judged_by_both_of_its_ends(config: Path, tmp_path: Path) -> None:
    """Whoever can change the link's directory, or its target's, decides what is read."""
    open_directory = tmp_path / "open"
    open_directory.mkdir()
    link = open_directory / "config.toml"
    link.symlink_to(config)
    assert _others(link) == ""

    open_directory.chmod(0o777)
    assert _others(link).startswith(f"{open_directory}: ")

    open_directory.chmod(0o755)
    config.parent.chmod(0o777)
    assert _others(link).startswith(f"{config.parent}: ")


@pytest.mark.root
@needs(root)
def test_root_uses_nothing_that_belongs_to_others(config: Path) -> None:
    os.chown(config, _NOBODY, -1)
    assert _others(config).startswith("it belongs to nobody")

    os.chown(config, 0, _NOBODY)
    config.chmod(0o664)
    assert "the group no" in _others(config)  # nogroup or nobody

    os.chown(config, 0, 0)
    os.chown(config.parent, _NOBODY, -1)
    assert _others(config).startswith(f"{config.parent}: it belongs to nobody")


@pytest.mark.root
@needs(root)
def test_a_group_of_roots_own_may_write(config: Path) -> None:
    os.chown(config, 0, 0)
    config.chmod(0o664)

    assert _others(config) == ""


def test_what_the_config_names_is_judged_as_well(tmp_path: Path) -> None:
    """The token, a webhook's file, a job's env_file."""
    named = tmp_path / "named"
    named.write_text("KEY=value")
    named.chmod(0o602)

    with pytest.raises(ConfigError, match=r"api.token_file: .*named: everybody can write to it"):
        find_token(ApiSettings(token_file=str(named)), {})
    with pytest.raises(ConfigError, match=r"webhook: .*named: everybody can write to it"):
        webhook_url(f"file:{named}", allow_insecure=False)
    with pytest.raises(ValueError, match=r"env_file .*named: everybody can write to it"):
        read_env_file(str(named))


@pytest.mark.root
@needs(root)
def test_an_env_file_may_belong_to_the_jobs_user_and_to_no_other(tmp_path: Path) -> None:
    named = tmp_path / "env"
    named.write_text("KEY=value")
    os.chown(named, _NOBODY, -1)

    assert read_env_file(str(named), owner=(_NOBODY, _NOBODY)) == {"KEY": "value"}
    with pytest.raises(ValueError, match=r"it belongs to nobody.* let only root or daemon change it"):
        read_env_file(str(named), owner=(1, 1))

    os.chown(named, _NOBODY, _NOBODY)
    named.chmod(0o664)  # as under umask 002, where each user has a group
    assert read_env_file(str(named), owner=(_NOBODY, _NOBODY)) == {"KEY": "value"}
    with pytest.raises(ValueError, match="the group no"):
        read_env_file(str(named), owner=(_NOBODY, 1))


@pytest.mark.root
@needs(tmpfs)
def test_on_a_read_only_mount_nobody_writes(tmp_path: Path) -> None:
    """As a container has its config, which belongs to somebody of the host."""
    code = (
        "import os, sys; from aura_agent.other_writers import *; print(other_writer(sys.argv[1], os.stat(sys.argv[1])))"
    )
    script = (
        f"mount -t tmpfs -o uid={_NOBODY} tmpfs . && echo >config && chown {_NOBODY} config && "
        '"$0" -c "$1" "$PWD/config" && mount -o remount,ro . && cd . && "$0" -c "$1" "$PWD/config"'
    )
    said = subprocess.run(
        [
            "unshare",
            "--mount",
            "sh",
            "-c",
            script.replace("tmpfs .", 'tmpfs "$PWD" && cd "$PWD"'),
            sys.executable,
            code,
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    before, after = said.stdout.split("\n")[:2]
    assert before.startswith("it belongs to nobody")
    assert after == ""
