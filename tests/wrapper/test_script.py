"""Files that the kernel can't execute: what dash and bash do with them, aura-run and the daemon do, too."""

import asyncio
import gzip
import os
import struct
import subprocess
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import pytest

from aura_agent.process.account import DEFAULT_PATH
from aura_agent.process.script import is_script
from aura_agent.process.spawn import SpawnFailed, SpawnSpec, spawn
from tests.wrapper.runs import QUEUE, Host

_ELF = Path("/bin/true").resolve().read_bytes()
_FOREIGN_MACHINE = struct.pack("<H", 0x1234)
_FILES = {
    "nuls": bytes(4096),
    "empty": b"",
    "newlines": b"\n\n",
    "plain": b"exit 7\n",
    "no_newline": b"exit 7",
    "other_machine": _ELF[:18] + _FOREIGN_MACHINE + _ELF[20:],
    "truncated_elf": _ELF[:40],
    "elf_magic_in_text": b"\x7fELF\nexit 7\n",
    "pe": b"MZ\x90\0\3\0\0\0" + bytes(60),
    "mach_o": b"\xcf\xfa\xed\xfe\7\0\0\1" + bytes(60),
    "java": b"\xca\xfe\xba\xbe\0\0\0\x34" + bytes(60),
    "gzip": gzip.compress(b"exit 7\n" * 9, mtime=0),
    "zip": b"PK\3\4\x14\0\x08\x08" + bytes(40),
    "xz": b"\xfd7zXZ\0\0\4" + b"a" * 40,
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(40),
    "python_bytecode": MAGIC_NUMBER + bytes(12) + b"\xe3\0\0\0)\n",
    "byte_order_mark": b"\xef\xbb\xbfexit 7\n",
    "byte_order_mark_and_shebang": b"\xef\xbb\xbf#!/bin/sh\nexit 7\n",
    "carriage_return_in_shebang": b"#!/bin/sh\r\nexit 7\r\n",
    "shebang_alone": b"#!\nexit 7\n",
    "nul_in_second_line": b"exit 7\n\0\0\0",
    "nul_as_byte_128": b"#" * 127 + b"\0\nexit 7\n",
    "nul_as_byte_129": b"#" * 128 + b"\0\nexit 7\n",
    "other_encoding": b"# caf\xe9\nexit 7\n",
    "escape": b"# \x1b[1mbold\nexit 7\n",
}


def _write(directory: Path, content: bytes) -> Path:
    path = directory / "file"
    path.write_bytes(content)
    path.chmod(0o755)
    return path


def _by_shell(shell: str, directory: Path) -> int:
    """Return the status that *shell* gives to the file, which needn't be readable as text."""
    command = [shell, "-c", "./file; exit $?"]
    return subprocess.run(command, cwd=directory, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode


@pytest.mark.parametrize("name", _FILES)
def test_aura_run_takes_for_a_script_what_shells_take(host: Host, name: str) -> None:
    """Where dash and bash differ the status is of either; 126 wherever both say so, and then without a ping."""
    _write(host.home, _FILES[name])
    expected = {_by_shell(shell, host.home) for shell in ("dash", "bash")}

    ended = host.run(*QUEUE, "--", "./file", stdin=subprocess.DEVNULL)

    assert ended.returncode in expected
    assert host.report()["outcome"] == ("succeeded" if expected == {0} else host.report()["outcome"])
    if expected == {126}:
        assert ended.stderr == b"aura-run: ./file: cannot execute binary file: Exec format error\n"
        assert host.report()["outcome"] == "not_started"


@pytest.mark.parametrize("name", _FILES)
def test_daemon_takes_for_a_script_what_shells_take(tmp_path: Path, name: str) -> None:
    """The daemon's jobs follow the same rule."""
    path = _write(tmp_path, _FILES[name])
    expected = {_by_shell(shell, tmp_path) for shell in ("dash", "bash")}

    if expected == {126}:
        with pytest.raises(SpawnFailed, match="cannot execute binary file") as caught:
            spawn(SpawnSpec(argv=(str(path),), env={"PATH": DEFAULT_PATH}, cwd=str(tmp_path)))
        assert caught.value.exit_code == 126
    elif expected != {127}:
        spec = SpawnSpec(argv=("./file",), env={}, cwd=str(tmp_path), stdout="null", stderr="null")

        async def status() -> int | None:
            return (await spawn(spec).wait()).code

        assert asyncio.run(status()) in expected


def test_binary_found_in_path_is_not_executed_by_sh(host: Host) -> None:
    """By its name alone: the message has the whole path, as bash's."""
    _write(host.home, _FILES["nuls"])
    host.extra = {"PATH": f"{host.home}:{os.environ['PATH']}"}

    ended = host.run(*QUEUE, "--", "file")

    assert ended.returncode == 126
    assert ended.stderr.decode() == f"aura-run: {host.home}/file: cannot execute binary file: Exec format error\n"


def test_every_first_byte_is_judged_as_by_a_shell(tmp_path: Path) -> None:
    """One of the two shells refuses it, or both take it."""
    judged, shells = {}, {}
    script = "for n in $(seq 0 255); do ./f$n >/dev/null 2>&1; echo $?; done"
    for byte in range(256):
        content = b"#" + bytes((byte,)) + b"\nexit 7\n"
        (tmp_path / f"f{byte}").write_bytes(content)
        (tmp_path / f"f{byte}").chmod(0o755)
        judged[byte] = is_script(content)
    for shell in ("dash", "bash"):
        out = subprocess.run([shell, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
        shells[shell] = [int(line) for line in out.split()]

    takes = {byte: all(statuses[byte] == 7 for statuses in shells.values()) for byte in range(256)}
    takes[ord("!")] = judged[ord("!")]  # an interpreter line
    assert judged == takes


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_script_that_cannot_be_read_is_not_executable(host: Host) -> None:
    """A shell can't read it either."""
    _write(host.home, b"exit 7\n").chmod(0o311)

    ended = host.run(*QUEUE, "--", "./file")

    assert (ended.returncode, ended.stderr) == (126, b"aura-run: ./file: Permission denied\n")
