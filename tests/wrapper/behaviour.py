"""The rows of docs/wrapper-behaviour.md: each stands beside the test that proves it, and ``make behaviour`` makes the
page of them.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/wrapper-behaviour.md"
SAME = "the same"
_MODULES = {
    "Start and end": "tests.wrapper.test_job",
    "What the job finds": "tests.wrapper.test_surroundings",
    "Signals": "tests.wrapper.test_signals",
    "At a terminal": "tests.wrapper.test_terminal",
    "In company": "tests.wrapper.test_company",
    "As process 1": "tests.wrapper.test_pid1",
    "Under systemd": "tests.systemd.test_wrapper",
    "Only with options": "tests.wrapper.test_timeout",
    "Output": "tests.wrapper.test_output",
}
_HEAD = """\
# What aura-run does, beside the bare command

Made by `make behaviour` from the tests, which run both: edit those. *The same* means that neither the caller nor the
job can tell the two apart in this; for each row the test in the last column compares them, or shows the difference.
"""


def behaviour(what: str, *, bare: str, ours: str = SAME) -> pytest.MarkDecorator:
    """Mark a test as the proof of one row: *what* it is about, and what then is seen without and with aura-run."""
    return pytest.mark.behaviour(what, bare, ours)


def page() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(line for title, name in _MODULES.items() for line in _section(title, name))])


def _section(title: str, name: str) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| what | bare command | aura-run | test |"
    yield "|---|---|---|---|"
    file = name.replace(".", "/") + ".py"
    for test, (what, bare, ours) in _rows(name):
        cells = " | ".join(cell.replace("|", "\\|") for cell in (what, bare, ours))
        yield f"| {cells} | [`{test}`](../{file}) |"
    yield ""


def _rows(module: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
    for name, value in vars(importlib.import_module(module)).items():
        for mark in reversed(getattr(value, "pytestmark", ()) if name.startswith("test_") else ()):
            if mark.name == "behaviour":
                yield name, mark.args


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
