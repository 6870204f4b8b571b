"""The errors that a user may meet, each one line: what, where, what to do.

    AuraError
    ├── UsageError        the command line is wrong (exit status 2)
    ├── ConfigError       the config has problems; carries all of them
    │   └── TokenError         what was named for the API token can't be read, or holds none
    ├── ScheduleError     an expression is invalid or never fires
    ├── ApiError          the Aura API said no, or could not be asked (see aura_agent.api.errors)
    ├── StoreError        the state directory or a file in it can't be used
    │   ├── StoreBusyError     others kept it locked for too long
    │   │   └── StoreSilentError   its disk does not answer
    │   ├── StoreDamagedError  the database isn't one, or not a whole one
    │   └── StoreVersionError  a newer version wrote the database
    └── DaemonError       the daemon doesn't answer, or refused

Texts never hold a token or a ping URL.
"""


class AuraError(Exception):
    """Something that the user can mend; its text is one line."""

    exit_status = 1


class UsageError(AuraError):
    """The command line can't be understood."""

    exit_status = 2


class Problem:
    """One thing that is wrong in one place of a config file."""

    __slots__ = ("file", "key", "line", "message")

    def __init__(self, message: str, *, file: str = "", line: int | None = None, key: str = "") -> None:
        self.message, self.file, self.line, self.key = message, file, line, key

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return ": ".join(part for part in (place, self.key, self.message) if part)

    def __repr__(self) -> str:
        return f"Problem({str(self)!r})"


class ConfigError(AuraError):
    """Every problem of a config at once, in the order of the files and lines."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class TokenError(ConfigError):
    """What was named for the API token can't be read, or holds none: the rest of the config may be used."""


class ScheduleError(AuraError):
    """A schedule that can't be read, or that never fires."""


class StoreError(AuraError):
    """The state directory or a file in it can't be used."""


class StoreBusyError(StoreError):
    """Others kept the database locked for longer than we wait: nobody has to mend that."""


class StoreSilentError(StoreBusyError):
    """The disk has not answered for long; what was asked of it may still be done once it does."""


class StoreDamagedError(StoreError):
    """The database can't be read as one: opened anew with a check, it is set aside."""


class StoreVersionError(StoreError):
    """The database comes from a newer version: what its columns mean would be a guess."""


class DaemonError(AuraError):
    """The daemon doesn't answer, or refused what was asked."""
