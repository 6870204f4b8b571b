"""Unit files that have aura-run in a command. Reads, and changes nothing."""

import os

from aura_agent.discover.host import Host, read_text
from aura_agent.discover.plan import DROP_INS, Left
from aura_agent.discover.unwrap import UnitFile, commands_with_aura_run

_ADMINS = (DROP_INS, "/usr/local/lib/systemd/system")
_PACKAGES = ("/usr/lib/systemd/system", "/lib/systemd/system")


def read_unit_files(host: Host) -> tuple[list[UnitFile], list[Left]]:
    """Return the files of services that may be changed, and those that belong to packages."""
    ours = [unit for directory in _ADMINS for unit in _services(host, directory)]
    mine = [unit for unit in ours if host.may_write(unit.path)]
    left = [Left(unit.path, "", "only root can change it") for unit in ours if unit not in mine]
    seen = set[str]()
    for directory in _PACKAGES:
        for unit in _services(host, directory):
            if host.path(unit.path) not in seen:
                seen.add(host.path(unit.path))
                left.append(Left(unit.path, "", "a package's unit has aura-run; only the package can change that"))
    return mine, left


def _services(host: Host, directory: str) -> list[UnitFile]:
    found = []
    for name in _listed(host, directory):
        inside = f"{directory}/{name}"
        if name.endswith(".service"):
            found.append(inside)
        elif name.endswith(".service.d"):
            found += [f"{inside}/{drop_in}" for drop_in in _listed(host, inside) if drop_in.endswith(".conf")]
    units = []
    for path in found:
        outside = os.path.join(host.path(os.path.dirname(path)), os.path.basename(path))
        if os.path.islink(outside) or not os.path.isfile(outside):
            continue  # a link is another unit's name: its own file is looked at
        try:
            text = read_text(outside)
        except OSError as problem:
            host.unreadable.append(f"{path}: {problem.strerror}")
            continue
        if commands_with_aura_run(text):
            units.append(UnitFile(path, text))
    return units


def _listed(host: Host, directory: str) -> list[str]:
    try:
        return sorted(os.listdir(host.path(directory)))
    except OSError:
        return []
