"""A pod of a manifest, as far as podman can be one: its containers with the users, rights, variables and mounts that the
manifest gives them, on one loopback, with an embedded Aura beside them.

Not covered: who starts first and who ends last (native sidecars), probes by the kubelet, resources.
"""

import json
import os
from pathlib import Path
from typing import Any

from tests.deploy.manifests import container, of_kind, pod_spec
from tests.deploy.podman import Container, Podman
from tests.waiting import wait_until

TOKEN = "aura_test_b81f04e6c7d2953a"
_HARDENED = ("--cap-drop=ALL", "--security-opt=no-new-privileges", "--pids-limit=50")
_CALL = """
import sys, urllib.request
url, token = sys.argv[1:]
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + token} if token else {})
print(urllib.request.urlopen(request, timeout=10).read().decode())
"""


class Aura:
    """An embedded Aura in a container; its network namespace is the pod's."""

    def __init__(self, podman: Podman, image: str, workdir: Path, heartbeats: list[str]) -> None:
        seed = workdir / "seed.toml"
        seed.write_text(
            f'[[tokens]]\ntoken = "{TOKEN}"\n'
            + "".join(f'[[heartbeats]]\nname = "{name}"\nexpected_interval = "1d"\n' for name in heartbeats)
        )
        seed.chmod(0o644)
        self._container = podman.start(
            *("aura", image, "dev-server", "--json", "--no-rate-limit", "--seed", "/seed.toml"),
            options=["--read-only", f"--volume={seed}:/seed.toml:ro"],
        )
        self._container.wait_for_output("base_url")
        self.base_url: str = json.loads(self._container.output().splitlines()[0])["base_url"]
        self.network = f"--network=container:{self._container.name}"

    def pings(self, heartbeat: str) -> int:
        answer = json.loads(self.get(f"{self._origin()}/_dev/pings?heartbeat={heartbeat}"))
        return sum(1 for ping in answer["data"] if ping["accepted"])

    def ping_url(self, heartbeat: str) -> str:
        listed = json.loads(self.get(f"{self.base_url}/heartbeats"))
        rows = listed["data"] if isinstance(listed, dict) else listed
        (found,) = [row["id"] for row in rows if row["name"] == heartbeat]
        answer = json.loads(self.get(f"{self.base_url}/heartbeats/{found}/ping-url"))
        return str(answer.get("data", answer)["url"])

    def get(self, url: str, token: str = TOKEN) -> str:
        """GET *url* from inside the pod's network."""
        done = self._container.execute("/opt/aura-agent/bin/python", "-c", _CALL, url, token)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _origin(self) -> str:
        scheme, _, rest = self.base_url.partition("://")
        return f"{scheme}://{rest.partition('/')[0]}"


class Pod:
    """The pod of manifest *name*; its volumes are directories below *workdir*."""

    def __init__(self, podman: Podman, name: str, workdir: Path, aura: Aura, secrets: dict[str, str]) -> None:
        self._podman = podman
        self._name = name
        self._aura = aura
        self._secrets = secrets
        group = pod_spec(name)["securityContext"]["fsGroup"]
        self._volumes = {each["name"]: self._make(each, workdir, group) for each in pod_spec(name)["volumes"]}

    def start(self, called: str, image: str, *more: str, command: list[str] | None = None) -> Container:
        """Start the container that the manifest calls *called*, from *image*, with podman's options *more*."""
        spec = container(self._name, called)
        context = spec["securityContext"]
        options = [
            *_HARDENED,
            *(["--read-only", "--read-only-tmpfs=false"] if context["readOnlyRootFilesystem"] else []),
            f"--user={context['runAsUser']}:{context['runAsGroup']}",
            f"--group-add={pod_spec(self._name)['securityContext']['fsGroup']}",
            self._aura.network,
            f"--env=AURA_API_URL={self._aura.base_url}",
            *(f"--env={each['name']}={each['value']}" for each in spec.get("env", [])),
            *(self._mount(each) for each in spec["volumeMounts"]),
            *more,
        ]
        entry = command or spec.get("command")
        if entry:
            options.append(f"--entrypoint={json.dumps(entry)}")
        return self._podman.start(called, image, *spec.get("args", []), options=options)

    def volume(self, name: str) -> Path:
        return self._volumes[name]

    def _mount(self, mount: dict[str, Any]) -> str:
        mode = "ro" if mount.get("readOnly") else "rw"
        return f"--volume={self._volumes[mount['name']]}:{mount['mountPath']}:{mode}"

    def _make(self, volume: dict[str, Any], workdir: Path, group: int) -> Path:
        """Make a volume as the kubelet does: root's, writable for everybody or readable for fsGroup."""
        path = workdir / "volumes" / str(volume["name"])
        path.mkdir(parents=True)
        os.chown(path, 0, group)
        if "emptyDir" in volume:
            path.chmod(0o2777)
            return path
        path.chmod(0o755)
        if "secret" in volume:
            content = of_kind(self._name, "Secret")["stringData"] | self._secrets
            mode = volume["secret"]["defaultMode"]
        else:
            content, mode = of_kind(self._name, "ConfigMap")["data"], 0o644
        for name, text in content.items():
            (path / name).write_text(text)
            os.chown(path / name, 0, group)
            (path / name).chmod(mode)
        return path


def wait_ready(aura: Aura, url: str) -> None:
    """Wait until a probe of *url* succeeds, as a startup probe does."""

    def answers() -> bool:
        try:
            return aura.get(url, "").strip() == "ok"
        except AssertionError:
            return False

    wait_until(answers, 30.0, f"{url} answers")
