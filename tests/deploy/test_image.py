"""The images, built and run for real, as locked up as a careful cluster runs them."""

import json
from pathlib import Path

import pytest

from tests.deploy.conftest import AGENT_IMAGE, JOB_IMAGE
from tests.deploy.manifests import container
from tests.deploy.podman import HARDENED, Container, Podman
from tests.deploy.pods import TOKEN, Aura, Pod, wait_ready
from tests.waiting import wait_until

pytestmark = [pytest.mark.container, pytest.mark.timeout(300)]

_WAIT_FOR_TERM = "trap 'echo told to stop; exit 3' TERM; echo running; while :; do sleep 1 & wait $!; done"


def test_image_runs_as_nobody_in_particular(podman: Podman) -> None:
    """Neither root nor any user of the base; SIGTERM stops it, and nothing could be installed into it."""
    (image,) = json.loads(podman.call("image", "inspect", AGENT_IMAGE).stdout)
    assert image["Config"]["User"] == "65532:65532"
    assert image["Config"]["Entrypoint"] == ["aura-agent"]
    assert image["Config"]["StopSignal"] in {"SIGTERM", "15"}
    ids = podman.run(AGENT_IMAGE, "-c", "import os; print(os.getuid(), os.getgid())", options=_python())
    assert ids.stdout.split() == ["65532", "65532"]
    assert "No module named pip" in podman.run(AGENT_IMAGE, "-m", "pip", options=_python()).stderr


def test_daemon_runs_locked_up_and_ends_well_on_sigterm(podman: Podman) -> None:
    """Read-only root, no capabilities, no network, no config: it answers, and `stop` ends it with 0."""
    agent = podman.start("agent", AGENT_IMAGE, options=HARDENED)
    wait_until(lambda: agent.execute("aura-agent", "status").returncode == 0, what="the daemon answers")

    agent.send("TERM")

    assert agent.wait() == 0, agent.output()


def test_aura_run_as_pid_1_forwards_sigterm(podman: Podman) -> None:
    """The job hears the SIGTERM that the container gets, and its status is the container's."""
    job = podman.start("job", JOB_IMAGE, *_job("sh", "-c", _WAIT_FOR_TERM), options=HARDENED)
    job.wait_for_output("running")

    job.send("TERM")

    assert job.wait() == 3
    assert "told to stop" in job.output()


def test_aura_run_as_pid_1_tells_which_signal_killed_its_job(podman: Podman) -> None:
    """PID 1 can't die of a signal: 128 + n stands for it."""
    assert podman.run(JOB_IMAGE, *_job("sh", "-c", "kill -KILL $$"), options=HARDENED).returncode == 137


def test_a_variable_that_would_end_python_is_the_jobs_alone(podman: Podman) -> None:
    """What the pod's environment has for a job in Python doesn't keep aura-run from running it."""
    options = [*HARDENED, "--env=PYTHONHOME=/nowhere"]

    done = podman.run(JOB_IMAGE, *_job("printenv", "PYTHONHOME"), options=options)

    assert (done.returncode, done.stdout) == (0, "/nowhere\n")


def test_aura_run_without_anything_to_report_to_gets_out_of_the_way(podman: Podman) -> None:
    """No daemon, no token, no place to write, no network: the job's output and status are untouched."""
    done = podman.run(JOB_IMAGE, *_job("sh", "-c", "echo out; exit 4"), options=[*HARDENED, "--read-only-tmpfs=false"])

    assert (done.returncode, done.stdout) == (4, "out\n")


def test_pod_of_the_sidecar_manifest_works_as_written(podman: Podman, tmp_path: Path) -> None:
    """The job's container, another user without a token, reports to the agent; Aura gets one ping, the job its end."""
    aura, pod, agent = _sidecar(podman, tmp_path)

    job = pod.start("report", JOB_IMAGE, _script(tmp_path, "echo reported"))

    assert job.wait() == 0, job.output()
    assert job.output() == "reported\n"
    wait_until(lambda: aura.pings("nightly-report") == 1, what="the ping arrives")
    assert not list(pod.volume("tmp").iterdir())
    agent.send("TERM")
    assert agent.wait() == 0
    assert TOKEN not in agent.output() + job.output()


def test_failed_job_of_the_sidecar_manifest_is_not_pinged(podman: Podman, tmp_path: Path) -> None:
    """The job's status is its container's, and the agent knows of the failure."""
    aura, pod, agent = _sidecar(podman, tmp_path)

    job = pod.start("report", JOB_IMAGE, _script(tmp_path, "exit 9"))

    assert job.wait() == 9
    assert "failed" in agent.execute("aura-agent", "history", "nightly-report").stdout
    assert aura.pings("nightly-report") == 0


def test_user_who_is_no_reporter_is_refused(podman: Podman, tmp_path: Path) -> None:
    """A container of another user on the same socket gets one line, its job runs, and nothing is pinged."""
    aura, pod, _ = _sidecar(podman, tmp_path)

    job = pod.start("report", JOB_IMAGE, _script(tmp_path, "echo ran"), "--user=10002:10002")

    assert job.wait() == 0
    assert "ran" in job.output()
    assert "reporters" in job.output()
    assert aura.pings("nightly-report") == 0


def test_pod_of_the_cronjob_manifest_works_as_written(podman: Podman, tmp_path: Path) -> None:
    """aura-run alone, with nothing but a ping URL, has delivered when the pod ends."""
    aura = Aura(podman, AGENT_IMAGE, tmp_path, ["nightly-report"])
    pod = Pod(podman, "cronjob.yaml", tmp_path, aura, {"ping-url": aura.ping_url("nightly-report")})

    job = pod.start("report", JOB_IMAGE, _script(tmp_path, "echo reported"))

    assert job.wait() == 0, job.output()
    assert job.output() == "reported\n"
    assert aura.pings("nightly-report") == 1


def test_store_on_a_volume_outlives_the_agents_container(podman: Podman, tmp_path: Path) -> None:
    """What could not be sent before the container was killed is sent by the next one."""
    aura, pod, agent = _sidecar(podman, tmp_path, "--env=AURA_API_URL=http://127.0.0.1:9")
    assert pod.start("report", JOB_IMAGE, _script(tmp_path, "true")).wait() == 0
    agent.send("KILL")
    agent.wait()
    assert aura.pings("nightly-report") == 0

    podman.call("rm", agent.name)
    agent = pod.start("aura-agent", AGENT_IMAGE)
    wait_until(lambda: agent.execute("aura-agent", "status").returncode == 0, what="the daemon answers")

    agent.execute("aura-agent", "queue", "flush")
    wait_until(lambda: aura.pings("nightly-report") == 1, what="the ping arrives")


def _sidecar(podman: Podman, workdir: Path, *more: str) -> tuple[Aura, Pod, Container]:
    """Start the sidecar's pod, up to where the job's container comes."""
    aura = Aura(podman, AGENT_IMAGE, workdir, ["nightly-report"])
    pod = Pod(podman, "sidecar.yaml", workdir, aura, {"token": TOKEN})
    agent = pod.start("aura-agent", AGENT_IMAGE, *more)
    probe = container("sidecar.yaml", "aura-agent")["startupProbe"]["httpGet"]
    wait_ready(aura, f"http://127.0.0.1:8787{probe['path']}")
    return aura, pod, agent


def _script(workdir: Path, text: str) -> str:
    """Return the option that puts the manifest's job script into a container."""
    script = workdir / "report.sh"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    return f"--volume={script}:/usr/local/bin/report.sh:ro"


def _python() -> list[str]:
    return [*HARDENED, '--entrypoint=["/opt/aura-agent/bin/python"]']


def _job(*command: str) -> list[str]:
    return ["-H", "nightly-report", "--", *command]
