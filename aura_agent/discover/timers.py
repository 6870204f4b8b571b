"""The systemd timers of a host that are in use, with their services. Reads, and changes nothing."""

import os
import subprocess
from collections.abc import Iterator

from aura_agent.discover.host import COMMAND_TIMEOUT_S, Host, read_text
from aura_agent.discover.plan import Left, Timer
from aura_agent.discover.units import read_unit

_UNIT_PATH = (  # systemd.unit(5), the first that has a file counts
    *("/etc/systemd/system", "/run/systemd/transient", "/run/systemd/system"),
    *("/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"),
)


def read_timers(host: Host) -> None:
    """Put the timers into *host*; into what is ignored where systemd doesn't run, sd_booted(3)."""
    for name in sorted(_timer_names(host)):
        if host.is_live and not host.systemd:
            host.ignored.append(Left(name, "", "systemd doesn't run here, so nothing starts it"))
        elif not name.endswith("@.timer"):  # a template, of which nothing is in use by itself
            _read_timer(host, name)


def _timer_names(host: Host) -> set[str]:
    """Return the timers that are in use: those that systemd has active, else those that some target wants."""
    if host.is_live and host.systemd:
        command = ["systemctl", "list-units", "--type=timer", "--state=active", "--plain", "--no-legend", "--no-pager"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_TIMEOUT_S)
        except (OSError, subprocess.SubprocessError):
            host.unreadable.append("systemctl: can't tell which timers are active; those that are enabled are taken")
        else:
            return {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    return set(_wanted_timers(host))


def _wanted_timers(host: Host) -> Iterator[str]:
    for directory in _UNIT_PATH:
        for target in host.listed(directory):
            if target.endswith((".wants", ".requires")):
                yield from (name for name in host.listed(f"{directory}/{target}") if name.endswith(".timer"))


def _read_timer(host: Host, name: str) -> None:
    timer = _read_unit(host, name)
    if timer is None:
        return
    service_name = (timer.get(("Timer", "Unit")) or [f"{name.removesuffix('.timer')}.service"])[-1]
    service = _read_unit(host, service_name)
    if service is None or "%" in service_name:
        host.ignored.append(Left(name, "", f"its service {service_name} isn't there"))
    else:
        host.timers.append(Timer(name, service_name, timer, service))


def _read_unit(host: Host, name: str) -> dict[tuple[str, str], list[str]] | None:
    """Return the settings of a unit; None if it isn't there, or masked."""
    stem, dot, suffix = name.rpartition(".")
    template = f"{stem.partition('@')[0]}@{dot}{suffix}" if "@" in stem else name
    fragment = next(
        (
            path
            for path in (f"{directory}/{one}" for one in (name, template) for directory in _UNIT_PATH)
            if os.path.exists(host.path(path)) or host.path(path) == host.path(os.devnull)
        ),
        None,
    )
    if fragment is None or host.path(fragment) == host.path(os.devnull):
        return None
    # Of drop-ins with one name the one of the first directory counts; they are read in the order of their names.
    drop_ins: dict[str, str] = {}
    for one in dict.fromkeys((name, template)):
        for directory in _UNIT_PATH:
            for drop_in in host.listed(f"{directory}/{one}.d"):
                if drop_in.endswith(".conf"):
                    drop_ins.setdefault(drop_in, f"{directory}/{one}.d/{drop_in}")
    texts = []
    for path in (fragment, *(drop_ins[drop_in] for drop_in in sorted(drop_ins))):
        text = None if host.path(path) == host.path(os.devnull) else host.tried(path, read_text)
        if text is not None:
            texts.append(text)
    return read_unit(texts)
