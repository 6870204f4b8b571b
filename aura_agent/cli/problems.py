"""How a problem of the config reads as JSON."""

from aura_agent.errors import Problem


def problem_row(problem: Problem) -> dict[str, object]:
    return {
        "file": problem.file or None,
        "line": problem.line,
        "key": problem.key or None,
        "message": problem.message,
    }
