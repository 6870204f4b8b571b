"""Root's aura-run speaks to no daemon that any user can have put into a directory that all share."""

import os
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.machine import needs, root
from tests.wrapper.runs import Host

pytestmark = [pytest.mark.root, needs(root)]
_NOBODY = 65534


@contextmanager
def _listening(path: Path, uid: int) -> Iterator[Path]:
    """Somebody with *uid* listens at *path*, notes in a file what is said, and agrees to everything."""
    notes = path.parent / "notes"
    ready_reading, ready_writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX) as listener, open(notes, "wb", buffering=0) as noted:
                listener.bind(str(path))
                listener.listen()
                os.write(ready_writing, b"x")
                while True:
                    connection, _ = listener.accept()
                    with connection, connection.makefile("rb") as lines:
                        for line in lines:
                            noted.write(line)
                            connection.sendall(b"ok\n" if line.startswith(b"run") else b"job\n")
        finally:
            os._exit(1)
    os.close(ready_writing)
    try:
        assert os.read(ready_reading, 1) == b"x"
        yield notes
    finally:
        os.close(ready_reading)
        os.kill(child, 9)
        os.waitpid(child, 0)


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="aura-impostor-") as directory:
        os.chmod(directory, 0o711)
        yield Path(directory)


def _report(host: Host, directory: Path, owner: int, mode: int) -> "tuple[subprocess.CompletedProcess[bytes], bytes]":
    """Report a failure to a daemon of nobody's in *directory*; return how aura-run ended and what the daemon was told."""
    directory.mkdir()
    os.chown(directory, owner, _NOBODY)
    directory.chmod(mode)
    socket_path = directory / "agent.sock"
    host.extra = {"AURA_SOCKET": str(socket_path)}
    with _listening(socket_path, _NOBODY) as notes:
        ended = host.run("--no-wait", "-H", "beat", "--", "sh", "-c", "exit 3")
        return ended, notes.read_bytes()


@pytest.mark.parametrize(("owner", "mode"), [(0, 0o1777), (_NOBODY, 0o1777), (4001, 0o777)])
def test_who_could_put_a_socket_into_a_shared_directory_is_told_nothing(
    host: Host, place: Path, owner: int, mode: int
) -> None:
    """The report is kept as without a daemon, the job's status is its own, and one line says why."""
    shared = place / "shared"

    ended, said = _report(host, shared, owner, mode)

    assert (ended.returncode, said) == (3, b"")
    assert f"not reported to {shared}/agent.sock: uid {_NOBODY} listens there".encode() in ended.stderr
    assert host.report()["outcome"] == "failed"


@pytest.mark.parametrize(("owner", "mode"), [(_NOBODY, 0o755), (0, 0o777), (0, 0o2777)])
def test_an_agent_with_a_directory_of_its_own_is_told(host: Host, place: Path, owner: int, mode: int) -> None:
    """As in a pod, where the agent is not root, and its volume belongs to root or to itself."""
    ended, said = _report(host, place / "own", owner, mode)

    assert ended.returncode == 3
    assert b"outcome=failed" in said
    assert host.reports() == []
