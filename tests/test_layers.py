"""The layers: who may import whom. Read from the source, so that deferred imports and type checks count too."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import aura_agent

ROOT = Path(aura_agent.__file__).parent
RANKS = {
    **dict.fromkeys(("boot_time", "private_files"), 0),
    **dict.fromkeys(("background_thread", "errors", "units", "secret", "clock", "other_writers"), 1),
    **dict.fromkeys(("schedule", "report", "systemd"), 2),
    **dict.fromkeys(("config", "api", "outbox", "process", "telemetry"), 3),
    **dict.fromkeys(("delivery", "sync", "watch"), 4),
    "hooks": 5,
    **dict.fromkeys(("wrapper", "daemon"), 6),
    **dict.fromkeys(("web", "devserver", "discover"), 7),
    "app": 8,
    **dict.fromkeys(("cli", "demo", "__main__"), 9),
}
# These two make one program of what is below: __main__ is an entrance of cli, and cli has the command for demo.
_ENTRANCES = {("__main__", "cli"), ("cli", "demo")}


def _modules() -> dict[str, Path]:
    """Return every module by its dotted name."""
    modules = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        modules[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return modules


def _imports(name: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of ours that *name* imports anywhere in its source; also those named in strings for later."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write imports absolutely"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules:
                    yield inner
                elif node.module in modules:
                    yield node.module
        elif isinstance(node, ast.Constant) and node.value in modules and node.value not in ("aura_agent", name):
            yield node.value


def _package(module: str) -> str:
    """Return the room that *module* is in: a package, or a module beside them; empty for the face of all."""
    return module.split(".")[1] if "." in module else ""


def test_a_module_imports_its_own_package_and_lower_ranks_only() -> None:
    """Arrows point down; equals never import each other, they meet above."""
    modules = _modules()
    wrong = []
    for name, path in modules.items():
        for imported in _imports(name, path, modules):
            mine, theirs = _package(name), _package(imported)
            if not theirs or mine == theirs or (mine, theirs) in _ENTRANCES:
                continue
            if not mine or RANKS[theirs] >= RANKS[mine]:
                wrong.append(f"{name} imports {imported}")

    assert wrong == []


def test_no_import_goes_round_in_a_circle() -> None:
    """Within a package too, and also where an import is deferred or only for types."""
    modules = _modules()
    graph = {name: set(_imports(name, path, modules)) - {name} for name, path in modules.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows the circle


def test_every_package_has_a_rank() -> None:
    """Whoever adds a package decides where it stands, and one that is gone leaves no rank behind."""
    assert {_package(name) for name in _modules()} - {""} == set(RANKS)


def test_croniter_has_one_importer_and_the_wrapper_starts_light() -> None:
    """Only the schedule package knows croniter; nothing at the top of the wrapper's modules loads an HTTP client."""
    importers, heavy = set(), []
    for name, path in _modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                names = (
                    [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                )
                if any(imported.split(".")[0] == "croniter" for imported in names):
                    importers.add(_package(name))
                if node in tree.body and _package(name) == "wrapper":
                    heavy += [
                        imported for imported in names if imported.split(".")[0] in {"httpx", "sqlite3", "msgspec"}
                    ]

    assert (importers, heavy) == ({"schedule"}, [])
