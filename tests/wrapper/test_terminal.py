"""At a terminal: keys reach the job once, job control works, and the job sees the terminal itself."""

import json
import os
import signal
import sys
import termios

import pytest

from tests.waiting import wait_until
from tests.wrapper.behaviour import behaviour
from tests.wrapper.runs import AURA_RUN, QUEUE, Host, is_alive, pending, state
from tests.wrapper.terminals import Terminal

_RUN = [AURA_RUN, *QUEUE]


@behaviour("Ctrl-C, Ctrl-\\", bare="reach it, once", ours="the same: the terminal has told it, we don't again")
@pytest.mark.parametrize("timeout", [(), ("--timeout", "1000s")], ids=["", "timeout"])
@pytest.mark.parametrize(("key", "signum"), [("\x03", signal.SIGINT), ("\x1c", signal.SIGQUIT)])
def test_a_key_reaches_the_job_once(host: Host, key: str, signum: int, timeout: tuple[str, ...]) -> None:
    """The terminal tells the whole foreground group; with a time-out the job stays in it."""
    program = (
        "import signal,sys\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, {{{int(signum)}}})\n"
        "print('ready', flush=True)\n"
        f"signal.sigwait({{{int(signum)}}})\n"
        "print('told', flush=True)\n"
        "sys.stdin.readline()\n"
        "print('again', signal.sigpending(), flush=True)\n"
    )
    with Terminal([*_RUN, *timeout, "--", sys.executable, "-c", program], host.environment) as terminal:
        terminal.until("ready")
        os.kill(terminal.pid, signal.SIGSTOP)  # or two signals that come together would be one
        wait_until(lambda: state(terminal.pid) == "T")
        terminal.type(key)
        terminal.until("told")
        os.kill(terminal.pid, signal.SIGCONT)
        wait_until(lambda: pending(terminal.pid) == 0 and state(terminal.pid) == "S")
        terminal.type("go\n")
        terminal.until("again set()")

        assert terminal.wait() == 0


@behaviour("the terminal's size changes", bare="SIGWINCH reaches it, once", ours="the same")
def test_a_new_size_reaches_the_job_once(host: Host) -> None:
    """The terminal has told the whole foreground group of it, too."""
    program = (
        "import os,signal,sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})\n"
        "print('ready', flush=True)\n"
        "signal.sigwait({signal.SIGWINCH})\n"
        "print('told', os.get_terminal_size().columns, flush=True)\n"
        "sys.stdin.readline()\n"
        "print('again', signal.sigpending(), flush=True)\n"
    )
    with Terminal([*_RUN, "--", sys.executable, "-c", program], host.environment) as terminal:
        terminal.until("ready")
        os.kill(terminal.pid, signal.SIGSTOP)  # or two signals that come together would be one
        wait_until(lambda: state(terminal.pid) == "T")
        termios.tcsetwinsize(terminal.controller, (30, 77))
        terminal.until("told 77")
        os.kill(terminal.pid, signal.SIGCONT)
        wait_until(lambda: pending(terminal.pid) == 0 and state(terminal.pid) == "S")
        terminal.type("go\n")
        terminal.until("again set()")

        assert terminal.wait() == 0


@behaviour("Ctrl-C in a script", bare="ends the command by SIGINT, and so the script", ours="the same")
@pytest.mark.parametrize("command", [[], [*_RUN, "--"]], ids=["bare", "aura-run"])
def test_ctrl_c_ends_the_script_around_us(host: Host, command: list[str]) -> None:
    """A shell goes on after a command that handled the key, and stops after one that died of it."""
    script = '"$@" sh -c "echo st""arted; exec sleep 1000"; echo went on'
    with Terminal(["/bin/bash", "-c", script, "bash", *command], host.environment) as terminal:
        terminal.until("started")
        terminal.type("\x03")

        assert terminal.wait() == -signal.SIGINT


_ASKING = """\
import os, time
print("started", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
print("went on", flush=True)
print("got", input())
"""


def _next_prompt(terminal: Terminal) -> str:
    terminal.type("\n")
    return terminal.until("prompt> ")


@behaviour("Ctrl-Z, `bg`, `fg` in an interactive shell", bare="stops it; lets it go on behind; brings it back")
@pytest.mark.parametrize("command", ["", f"{AURA_RUN} --no-wait -H beat -- "], ids=["bare", "aura-run"])
def test_job_control_works_as_without_us(host: Host, command: str) -> None:
    """Ctrl-Z gives the prompt back; behind, the job goes on until it asks for input; fg lets it have that."""
    (host.home / "asking.py").write_text(_ASKING)
    with Terminal(["/bin/bash", "--norc", "--noprofile", "-i"], host.environment | {"PS1": "prompt> "}) as terminal:
        terminal.until("prompt> ")
        terminal.type(f"cd {host.home}\n")
        terminal.until("prompt> ")
        terminal.type(f"{command}{sys.executable} asking.py\n")
        terminal.until("started")
        terminal.type("\x1a")
        terminal.until("Stopped")
        terminal.until("prompt> ")
        terminal.type("bg\n")
        terminal.until("prompt> ")
        (host.home / "go").touch()
        terminal.until("went on")
        # SIGTTIN: it asks for input and is not in the foreground. The shell tells us with one of its next prompts.
        wait_until(lambda: "Stopped" in _next_prompt(terminal))
        terminal.type("fg\n")
        terminal.until("asking.py")
        terminal.type("line\n")
        terminal.until("got line")
        terminal.type("exit\n")
        terminal.wait()

    assert [report["outcome"] for report in host.reports()] == (["succeeded"] if command else [])


@behaviour(
    "the terminal", bare="is its stdin, stdout and stderr, and its controlling terminal", ours="the same, no pipe"
)
def test_the_job_has_the_terminal_itself(host: Host) -> None:
    """Colours, widths and prompts are as without us; it is in the foreground, and may change the terminal's modes."""
    program = (
        "import os,sys,json,termios,fcntl\n"
        "mode = termios.tcgetattr(0); termios.tcsetattr(0, termios.TCSADRAIN, mode)\n"
        "json.dump([[os.isatty(fd) for fd in range(3)], os.ttyname(0) == os.ttyname(2), os.open('/dev/tty', 2) > 2,\n"
        " os.tcgetpgrp(0) == os.getpgrp(), os.getsid(0) == os.getppid()], sys.stdout); print('.')\n"
    )
    with Terminal([*_RUN, "--", sys.executable, "-c", program], host.environment) as terminal:
        found = terminal.until(".")

        assert terminal.wait() == 0
    assert json.loads(found) == [[True] * 3, True, True, True, True]


@behaviour("the terminal hangs up", bare="SIGHUP ends it")
@pytest.mark.parametrize("command", [[], [*_RUN, "--"]], ids=["bare", "aura-run"])
def test_a_hang_up_ends_the_job(host: Host, command: list[str]) -> None:
    """The window is closed: no job is left behind."""
    script = "echo $$ >pid; echo ready; exec sleep 1000"
    with Terminal(["/usr/bin/env", "-C", str(host.home), *command, "sh", "-c", script], host.environment) as terminal:
        terminal.until("ready")
        terminal.hang_up()

        assert terminal.wait() == -signal.SIGHUP
    wait_until(lambda: not is_alive(int((host.home / "pid").read_text())))
