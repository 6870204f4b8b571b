"""A small host of one's own to be root on: chroot with its own /etc, /var and users, and an installation in /opt.

Programs of the system are the real ones, bound in; crontab(1) is a script that keeps tables as Debian's does, without
a header.
"""

import json
import os
import shlex
import shutil
import site
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_REPOSITORY = Path(__file__).parents[2]
_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1::/usr/sbin:/usr/sbin/nologin
bob:x:4001:4001::/home/bob:/bin/sh
eve:x:4002:4002::/home/eve:/bin/sh
"""
_GROUP = "root:x:0:\ndaemon:x:1:\nbob:x:4001:\neve:x:4002:\nagents:x:4100:eve\n"
_CRONTAB = """\
#!/bin/sh
user=$(id -un)
while [ "$1" != - ]; do
    case $1 in -u) user=$2; shift ;; -l) exec cat "/var/spool/cron/crontabs/$user" ;; esac
    shift
done
grep -q "^$user:" /etc/passwd || { echo "crontab:  user \\`$user' unknown" >&2; exit 1; }
! grep -qx "$user" /etc/cron.deny 2>/dev/null || { echo "$user is not allowed to use crontab" >&2; exit 1; }
cat > "/var/spool/cron/crontabs/$user"
"""
_AURA_AGENT = "from aura_agent.cli.main import main\n\nmain()\n"


def install(directory: Path, prefix: str = "/opt/aura-agent", python: str = "/opt/python/bin/python3") -> Path:
    """Install this aura-agent into *directory*, which is to be *prefix* on the host, with *python* as its Python."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = directory / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    shutil.copytree(_REPOSITORY / "aura_agent", packages / "aura_agent", ignore=shutil.ignore_patterns("__pycache__"))
    (packages / "dependencies.pth").write_text("/opt/dependencies\n")
    (directory / "pyvenv.cfg").write_text(f"home = {os.path.dirname(python)}\n")
    (directory / "bin").mkdir()
    (directory / "bin/python").symlink_to(python)
    script = (_REPOSITORY / "bin/aura-run").read_text().partition("\n")[2]
    for name, text in (("aura-run", script), ("aura-agent", _AURA_AGENT)):
        (directory / "bin" / name).write_text(f"#!{prefix}/bin/python -I\n{text}")
        (directory / "bin" / name).chmod(0o755)
    return directory


@dataclass
class LiveHost:
    """The host below *root*; *mounts* are bound in by what runs there: source and place."""

    root: Path
    installation: Path
    mounts: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mounts += [("/usr", "/usr"), ("/proc", "/proc"), ("/dev", "/dev")]
        for name in ("bin", "sbin", "lib", "lib32", "lib64"):
            if os.path.islink(f"/{name}"):
                (self.root / name).symlink_to(os.readlink(f"/{name}"))
            elif os.path.isdir(f"/{name}"):
                self.mounts.append((f"/{name}", f"/{name}"))
        self.mounts += [(str(self.path("/local-bin")), "/usr/local/bin"), (sys.base_prefix, "/opt/python")]
        self.mounts += [(site.getsitepackages()[0], "/opt/dependencies"), (str(self.installation), "/opt/aura-agent")]
        if os.path.isdir("/usr/lib/systemd"):  # the units of the machine that the tests run on
            self.path("/no-units").mkdir()
            self.mounts.append((str(self.path("/no-units")), "/usr/lib/systemd"))
        for directory in ("/etc/cron.d", "/var/spool/cron/crontabs", "/var/backups", "/local-bin", "/home/bob", "/run"):
            self.path(directory).mkdir(parents=True, exist_ok=True)
        for _, place in self.mounts:
            if not place.startswith("/usr/"):
                self.path(place).mkdir(parents=True, exist_ok=True)
        for directory, mode in (("/tmp", 0o1777), ("/root", 0o700), ("/home/bob", 0o755)):
            self.path(directory).mkdir(exist_ok=True)
            self.path(directory).chmod(mode)
        self.write("/etc/passwd", _PASSWD)
        self.write("/etc/group", _GROUP)
        self.write("/local-bin/crontab", _CRONTAB, 0o755)
        self.write("/local-bin/cron", "INSECURE MODE (mode 0600 expected)", 0o755)  # as Debian's cron is known
        # A Python with a library of its own looks for it where it was built: tell the loader where it is here.
        cache = self.installation.parent / "ld.so.cache"
        if not cache.exists():
            self.write("/etc/ld.so.conf", "/opt/python/lib\ninclude /etc/ld.so.conf.d/*.conf\n")
            if os.path.isdir("/etc/ld.so.conf.d"):
                shutil.copytree("/etc/ld.so.conf.d", self.path("/etc/ld.so.conf.d"))
            made = self.run("ldconfig")
            assert made.returncode == 0, made.stderr
            shutil.copy(self.path("/etc/ld.so.cache"), cache)
        shutil.copy(cache, self.path("/etc/ld.so.cache"))

    def path(self, inside: str) -> Path:
        return self.root / inside.lstrip("/")

    def write(self, inside: str, text: str, mode: int = 0o644) -> Path:
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        return path

    def read(self, inside: str) -> str:
        return self.path(inside).read_text()

    def crontab(self, user: str, table: str) -> None:
        self.write(f"/var/spool/cron/crontabs/{user}", table, 0o600)

    def timer(self, name: str, service: str) -> None:
        """Install a timer that is wanted, and its service."""
        self.write(f"/etc/systemd/system/{name}.timer", "[Timer]\nOnCalendar=daily\n")
        self.write(f"/etc/systemd/system/{name}.service", f"[Service]\n{service}\n")
        wants = self.path("/etc/systemd/system/timers.target.wants")
        wants.mkdir(parents=True, exist_ok=True)
        (wants / f"{name}.timer").symlink_to(f"../{name}.timer")

    def boot(self) -> None:
        """Let systemd seem to run, with all timers active."""
        self.path("/run/systemd/system").mkdir(parents=True)
        self.write("/local-bin/systemctl", "#!/bin/sh\ncd /etc/systemd/system && ls | grep '[.]timer$'\n", 0o755)

    def files(self) -> dict[str, bytes]:
        """Return what is in the host's own files, but for the backups."""
        places = (self.path(inside) for inside in ("/etc", "/var/spool"))
        return {str(path): path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}

    def link_into_path(self) -> None:
        """What the README has one do."""
        for name in ("aura-run", "aura-agent"):
            self.path(f"/local-bin/{name}").symlink_to(f"/opt/aura-agent/bin/{name}")

    def run(self, *words: str, before: str = ":", uid: int | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a command there as root, or with *uid* in bob's home; *before* is shell that comes first, outside, in $ROOT."""
        binds = "\n".join(
            f"mount --rbind {shlex.quote(source)} {shlex.quote(f'{self.root}{place}')}" for source, place in self.mounts
        )
        script = f'set -e; ROOT={shlex.quote(str(self.root))}\n{binds}\n{before}\nexec chroot "$ROOT" "$@"'
        become = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env", "HOME=/home/bob"]
        become = [] if uid is None else become
        environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "LANG": "C.UTF-8"}
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *become, *words],
            env=environment,
            capture_output=True,
            check=False,
            text=True,
            timeout=120,
        )

    def discover(
        self, *arguments: str, prefix: str = "/opt/aura-agent", **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        return self.run(f"{prefix}/bin/aura-agent", "discover", *arguments, **options)

    def told(self, *arguments: str, status: int = 0, **options: Any) -> dict[str, Any]:
        """Return what the command says as JSON; it must end with *status*."""
        ran = self.discover(*arguments, "--json", **options)
        assert ran.returncode == status, ran.stderr
        answer: dict[str, Any] = json.loads(ran.stdout)
        return answer
