"""What is found wrong with a config, collected: each problem once, with its place, and without secrets."""

from aura_agent.config.documents import Document, key_text, place
from aura_agent.config.lines import Path
from aura_agent.config.shape import hide_secrets
from aura_agent.errors import Problem


class Findings:
    """Errors and warnings about keys of *documents*, which know the places."""

    def __init__(self, documents: list[Document], errors: list[Problem]) -> None:
        self._documents = documents
        self._errors = errors
        self._warnings: list[Problem] = []

    def error(self, path: Path, message: str) -> None:
        self._add(self._errors, path, message)

    def warn(self, path: Path, message: str) -> None:
        self._add(self._warnings, path, message)

    def place(self, path: Path) -> str:
        """Return where *path* is, as ``file:line``."""
        file, line = place(self._documents, path)
        return f"{file}:{line}"

    def errors(self) -> list[Problem]:
        """Return the errors in the order of files and lines, each once."""
        return self._sorted(self._errors)

    def warnings(self) -> list[Problem]:
        """Return the warnings in the order of files and lines, each once."""
        return self._sorted(self._warnings)

    def problem(self, path: Path, message: str) -> Problem:
        """Return what is to be told of the key at *path*, collected or not."""
        file, line = place(self._documents, path)
        return Problem(hide_secrets(message), file=file, line=line, key=hide_secrets(key_text(path)))

    def _add(self, problems: list[Problem], path: Path, message: str) -> None:
        problems.append(self.problem(path, message))

    def _sorted(self, problems: list[Problem]) -> list[Problem]:
        order = {document.file: index for index, document in enumerate(self._documents)}
        once = {str(problem): problem for problem in problems}
        return sorted(once.values(), key=lambda problem: (order.get(problem.file, -1), problem.line or 0))
