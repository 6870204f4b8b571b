"""A terminal of a test's own, with a program on it."""

import os
import pty
import select
from types import TracebackType
from typing import Self

_PATIENCE_S = 20.0


class Terminal:
    """A pseudo-terminal; the program on it leads its session. Leaving the block hangs up."""

    def __init__(self, argv: list[str], environment: dict[str, str]) -> None:
        self.pid, self.controller = pty.fork()
        if self.pid == 0:
            os.execve(argv[0], argv, environment)
        self._said = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.hang_up()

    def hang_up(self) -> None:
        """Close the window."""
        if self.controller >= 0:
            os.close(self.controller)
        self.controller = -1

    def type(self, keys: str) -> None:
        os.write(self.controller, keys.encode())

    def until(self, text: str) -> str:
        """Read up to and with *text*, and return what came before it; fail after a while."""
        while text.encode() not in self._said:
            ready, _, _ = select.select([self.controller], [], [], _PATIENCE_S)
            assert ready, f"{text!r} was not said, but {self._said!r}"
            self._said += os.read(self.controller, 1000)
        before, _, self._said = self._said.partition(text.encode())
        return before.decode()

    def read_all(self) -> str:
        """Return all that is said until nobody holds the terminal any more."""
        try:
            while chunk := os.read(self.controller, 1000):
                self._said += chunk
        except OSError:  # EIO: how a terminal says that
            pass
        said, self._said = self._said, b""
        return said.decode()

    def wait(self) -> int:
        """Return how the program ended, as subprocess has it, reading what it still says."""
        try:
            while self.controller >= 0 and os.read(self.controller, 1000):
                pass
        except OSError:  # EIO: how a terminal says that nobody holds it any more
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
