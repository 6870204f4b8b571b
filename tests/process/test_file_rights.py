"""A job of another user reaches files with that user's rights from the first step on: root never looks in its place."""

import ctypes
import errno
import os
import pwd
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from aura_agent.config.models import Job
from aura_agent.daemon.jobspec import spawn_spec
from aura_agent.process.account import Account, resolve_account
from aura_agent.process.file_rights import file_rights_of
from aura_agent.process.spawn import SpawnFailed, SpawnSpec
from tests.machine import needs, root
from tests.process.test_spawn import ENV, run, script

pytestmark = [pytest.mark.anyio, pytest.mark.root, needs(root)]


@pytest.fixture
def nobody() -> Account:
    return resolve_account("nobody")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody reaches, unlike pytest's own, with a closed one of root's in it."""
    with tempfile.TemporaryDirectory(prefix="aura-rights-") as name:
        path = Path(name)
        path.chmod(0o755)
        (path / "closed").mkdir(mode=0o700)
        yield path


async def _failure(spec: SpawnSpec) -> str:
    with pytest.raises(SpawnFailed) as caught:
        await run(spec)
    return str(caught.value)


async def test_a_job_does_not_begin_where_its_user_may_not_go(nobody: Account, place: Path) -> None:
    """Root could enter it, and the job would read what lies there."""
    inner = place / "closed" / "inner"
    inner.mkdir(mode=0o755)
    (inner / "secret").write_text("s3cret")

    said = await _failure(SpawnSpec(argv=("cat", "secret"), env=ENV, account=nobody, cwd=str(inner)))

    assert said == f"can't enter the working directory {inner} as user nobody: Permission denied: correct it"


async def test_a_home_that_its_user_may_not_enter_is_not_entered(nobody: Account, place: Path) -> None:
    """As one that doesn't exist."""
    status, out, _ = await run(SpawnSpec(argv=("pwd",), env=ENV, account=nobody._replace(home=str(place / "closed"))))

    assert (status.code, out) == (0, "/\n")


async def test_a_message_does_not_tell_what_lies_in_a_closed_directory(nobody: Account, place: Path) -> None:
    """Whether the program exists there, is a directory, a script or a binary: the same words."""
    closed = place / "closed"
    script(closed / "program", "#!/no/such/interpreter\n")
    (closed / "directory").mkdir()
    (closed / "binary").write_bytes(b"\0" * 64)
    (closed / "binary").chmod(0o755)

    said = {
        (await _failure(SpawnSpec(argv=(f"{closed}/{name}",), env=ENV, account=nobody, cwd="/"))).replace(name, "NAME")
        for name in ("program", "directory", "binary", "nothing")
    }

    assert said == {f"{closed}/NAME: permission denied for user nobody; is it (and its interpreter) executable?"}


async def test_a_directory_of_path_that_is_closed_is_passed_over(nobody: Account, place: Path) -> None:
    """As execvp(3) does it for that user."""
    script(place / "closed" / "tool", "#!/bin/sh\necho closed\n")
    script(place / "tool", "#!/bin/sh\necho open\n")
    path = f"{place}/closed:{place}:/usr/bin:/bin"

    status, out, _ = await run(SpawnSpec(argv=("tool",), env={"PATH": path}, account=nobody, cwd="/"))

    assert (status.code, out) == (0, "open\n")


def test_env_file_is_read_with_the_jobs_rights(place: Path) -> None:
    """Through a link of the user's to a file of root's nothing is read; the user's own file is."""
    secret, own, link = place / "secret", place / "own", place / "link"
    secret.write_text("KEY=s3cret\n")
    secret.chmod(0o600)
    own.write_text("KEY=mine\n")
    own.chmod(0o600)
    nobody = pwd.getpwnam("nobody")
    os.chown(own, nobody.pw_uid, nobody.pw_gid)
    link.symlink_to(secret)

    def spec(path: Path) -> SpawnSpec:
        return spawn_spec(Job(command=("true",), user="nobody", env_file=str(path)))

    assert spec(own).env["KEY"] == "mine"
    for path in (link, secret):
        with pytest.raises(SpawnFailed, match="Permission denied"):
            spec(path)


def test_rights_end_with_the_look(nobody: Account, place: Path) -> None:
    """The ids and the groups."""
    before = _rights()
    with file_rights_of(nobody):
        within = _rights()
        with pytest.raises(PermissionError):
            os.listdir(place / "closed")

    assert within != before == _rights()
    assert os.listdir(place / "closed") == []


def test_whom_nobody_can_be_is_refused_and_changes_nothing(nobody: Account) -> None:
    before = _rights()

    with pytest.raises(SpawnFailed, match="can't become user nobody"), file_rights_of(nobody._replace(uid=2**32 - 1)):
        pass

    assert _rights() == before


def _rights() -> list[str]:
    """Return what the kernel says of this thread's ids and groups."""
    with open("/proc/thread-self/status", encoding="ascii") as status:
        return [line for line in status if line.startswith(("Uid", "Gid", "Groups"))]


async def test_a_job_of_another_user_has_a_session_keyring_of_its_own(nobody: Account) -> None:
    """What a job of one user puts there, a job of another would find."""
    ask = "import ctypes; print(ctypes.CDLL(None).syscall(NUMBER, 0, -3, 0))"  # KEYCTL_GET_KEYRING_ID
    number = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
    if number is None:
        pytest.skip("the number of keyctl(2) on this architecture isn't known here")
    libc = ctypes.CDLL(None, use_errno=True)
    ours = libc.syscall(number, 0, -3, 0)
    if ours < 0 and ctypes.get_errno() in (errno.ENOSYS, errno.EPERM):
        pytest.skip("this machine lacks: keyrings")
    code = ask.replace("NUMBER", str(number))

    numbers = []
    for _ in range(2):
        status, out, err = await run(SpawnSpec(argv=("/usr/bin/python3", "-c", code), env=ENV, account=nobody, cwd="/"))
        assert status.code == 0, err
        numbers.append(int(out))

    assert len({*numbers, ours}) == 3
