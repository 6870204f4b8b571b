"""deploy/kubernetes, held against what the agent and a careful cluster expect. No cluster needed."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aura_agent import __version__
from aura_agent.config.load import load_config
from aura_agent.config.models import Config
from aura_agent.units import parse_duration_s
from tests.deploy.manifests import DIRECTORY, NAMES, container, containers, of_kind, pod_spec
from tests.deploy.podman import CACHE

SIDECAR, CRONJOB = "sidecar.yaml", "cronjob.yaml"
every_manifest = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """What the sidecar's ConfigMap says, read as the agent reads it."""
    path = tmp_path / "config.toml"
    path.write_text(of_kind(SIDECAR, "ConfigMap")["data"]["config.toml"])
    return load_config(str(path))


@every_manifest
def test_every_container_is_locked_up(name: str) -> None:
    """No root, no way to become root, nothing to write to but volumes, and no token of the cluster."""
    pod = pod_spec(name)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    for each in containers(name):
        context = each["securityContext"]
        assert context["runAsUser"] > 0
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}


@every_manifest
def test_mounts_and_volumes_belong_together(name: str) -> None:
    """Every mount names a volume, every volume is mounted, and every Secret and ConfigMap is in the manifest."""
    pod = pod_spec(name)
    mounted = {mount["name"] for each in containers(name) for mount in each["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == mounted
    for volume in pod["volumes"]:
        if "secret" in volume:
            assert of_kind(name, "Secret")["metadata"]["name"] == volume["secret"]["secretName"]
        if "configMap" in volume:
            assert of_kind(name, "ConfigMap")["metadata"]["name"] == volume["configMap"]["name"]


@every_manifest
def test_secrets_are_files_and_never_variables_or_arguments(name: str) -> None:
    """Nothing secret shows in `kubectl describe`, and no secret of the example is a real one."""
    assert all("replace-me" in value for value in of_kind(name, "Secret")["stringData"].values())
    for each in containers(name):
        assert not [variable for variable in each.get("env", []) if "valueFrom" in variable]
        assert "envFrom" not in each


@every_manifest
def test_there_is_no_yaml_that_only_some_parsers_read(name: str) -> None:
    """Neither anchors nor merge keys, which YAML 1.2 and some tools of Kubernetes don't know."""
    text = (DIRECTORY / name).read_text()
    assert not re.search(r"<<:|: &\w|: \*\w", text)


def test_config_is_valid_and_the_job_asks_for_a_job_in_it(config: Config) -> None:
    """`aura-run -j` of the job's container finds its job, with heartbeat and command, in the mounted config."""
    job = container(SIDECAR, "report")
    assert job["command"] == ["/opt/aura-agent/bin/aura-run", "-j", "nightly-report"]
    assert config.jobs["nightly-report"].command
    assert _mount(job, "config") == _mount(container(SIDECAR, "aura-agent"), "config") == "/etc/aura-agent"


def test_only_the_agent_has_the_token(config: Config) -> None:
    """The token is mounted where the config looks for it, and not in the job's container."""
    agent, job = container(SIDECAR, "aura-agent"), container(SIDECAR, "report")
    assert config.api.token_file == _mount(agent, "token") + "/token"
    assert "token" not in {mount["name"] for mount in job["volumeMounts"]}


def test_job_may_report(config: Config) -> None:
    """The user of the job's container is among the reporters, and both containers share the socket's directory."""
    agent, job = container(SIDECAR, "aura-agent"), container(SIDECAR, "report")
    assert str(job["securityContext"]["runAsUser"]) in config.agent.reporters
    assert _mount(agent, "run") == _mount(job, "run") == "/run/aura-agent"


def test_probes_ask_the_configured_port(config: Config) -> None:
    """The kubelet's probes come to where the status page listens, on an address that it reaches."""
    agent = container(SIDECAR, "aura-agent")
    ports = {port["name"]: port["containerPort"] for port in agent["ports"]}
    probes = [agent["startupProbe"]["httpGet"], agent["livenessProbe"]["httpGet"]]
    assert [probe["path"] for probe in probes] == ["/readyz", "/healthz"]
    assert {f"0.0.0.0:{ports[probe['port']]}" for probe in probes} == {config.status.listen}


def test_pod_waits_as_long_as_the_agent_needs(config: Config) -> None:
    """Grace and flush of the agent fit into the pod's own grace period."""
    needed_s = config.agent.stop_grace + config.agent.flush_timeout
    assert needed_s < pod_spec(SIDECAR)["terminationGracePeriodSeconds"]


def test_agent_starts_before_the_job_and_ends_after_it() -> None:
    """It is a native sidecar, and the job waits for its startup probe."""
    (agent,) = pod_spec(SIDECAR)["initContainers"]
    assert agent["restartPolicy"] == "Always"
    assert agent["image"] == f"aura-agent:{__version__}"


def test_ping_url_is_where_the_variable_says() -> None:
    """AURA_PING_URL names the mounted Secret's file."""
    job = container(CRONJOB, "report")
    (key,) = of_kind(CRONJOB, "Secret")["stringData"]
    assert _variables(job)["AURA_PING_URL"] == f"file:{_mount(job, 'ping-url')}/{key}"


def test_store_is_on_the_volume() -> None:
    """The store is a directory below the volume, which aura-run makes as its own."""
    job = container(CRONJOB, "report")
    assert _variables(job)["AURA_STATE_DIR"].startswith(_mount(job, "state") + "/")


def test_pod_waits_as_long_as_the_delivery_may_take() -> None:
    wait_s = parse_duration_s(_variables(container(CRONJOB, "report"))["AURA_WAIT"])
    assert wait_s < pod_spec(CRONJOB)["terminationGracePeriodSeconds"]


@pytest.mark.container
@every_manifest
@pytest.mark.parametrize("version", ["1.29", "1.32", "1.35"])
def test_manifest_fits_the_schema_of_kubernetes(name: str, version: str) -> None:
    """No key is unknown, misspelt or in the wrong place, for the oldest version with native sidecars and newer ones."""
    validate = CACHE / "tools" / "bin" / "kubernetes-validate"
    argv = [str(validate), "--strict", "-k", version, str(DIRECTORY / name)]

    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def _mount(container: dict[str, Any], volume: str) -> str:
    (path,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == volume]
    return str(path)


def _variables(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container["env"]}
