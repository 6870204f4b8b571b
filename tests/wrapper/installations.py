"""Copies of the installation that a test can replace or remove under whoever runs from it."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import IO

import aura_agent

# Our package and Python's library are found by paths that a test can take away.
LAUNCH = """
import os, sys
replaced = {os.environ.pop(name): name.lower() for name in ("STDLIB", "DYNLOAD")}
home = os.environ["HOME"]
sys.path = [f"{home}/site", *(f"{home}/{replaced[path]}" if path in replaced else path for path in sys.path if path)]
if sys.argv[1] == "aura-run":
    from aura_agent.wrapper.main import main
else:
    from aura_agent.cli.main import main
del sys.argv[1]
sys.exit(main())
"""
_PACKAGE = Path(aura_agent.__file__).parent


class Installation:
    """A copy of the package for one aura-run, and what becomes of it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(_PACKAGE, home / "site" / "aura_agent", ignore=ignore)
        stdlib = sysconfig.get_path("stdlib")
        self._paths = {"STDLIB": stdlib, "DYNLOAD": f"{stdlib}/lib-dynload"}
        for name, path in self._paths.items():
            (home / name.lower()).symlink_to(path)

    def start(
        self,
        environment: dict[str, str],
        *arguments: str,
        program: str = "aura-run",
        stderr: IO[bytes] | int = subprocess.PIPE,
    ) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-c", LAUNCH, program, *arguments],
            env=environment | self._paths | {"HOME": str(self.home), "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )

    def remove(self) -> None:
        shutil.rmtree(self.home / "site")

    def remove_with_stdlib(self) -> None:
        self.remove()
        (self.home / "stdlib").unlink()
        (self.home / "dynload").unlink()

    def replace(self) -> None:
        """Put another version in its place, which has none of the names that ours looks for."""
        for path in (self.home / "site").rglob("*.py"):
            path.write_text("")

    def damage(self) -> None:
        for path in (self.home / "site").rglob("*.py"):
            path.write_text("raise SystemExit(9)\n")
