"""``aura-agent`` as a call: the real command line from its arguments to its exit status, without a process for each."""

import io
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest.mock import patch

import pytest

from aura_agent.cli.main import main


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


def aura_agent(*arguments: str, environment: dict[str, str], stdin: bytes = b"") -> Ran:
    """Run the command with exactly *environment*; nobody is there to be asked."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", ["aura-agent", *arguments]),
        patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        patch.dict("os.environ", environment, clear=True),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, stdout.getvalue(), stderr.getvalue())
