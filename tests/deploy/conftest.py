"""Two images, built once from the repository as it is: the agent's, and a job's with aura-run in it."""

import os
from collections.abc import Iterator

import pytest

from tests.deploy.podman import CACHE, Podman

AGENT_IMAGE = "localhost/aura-agent:test"
JOB_IMAGE = "localhost/aura-job:test"
_BASE = "localhost/aura-test-base:1"


@pytest.fixture(scope="session")
def images() -> None:
    podman = Podman("build")
    base = CACHE / "base.tar"
    assert base.exists(), f"no {base}: run tests/deploy/setup.sh (make test-container does)"
    if podman.call("image", "exists", _BASE).returncode != 0:
        imported = podman.call("import", "-q", str(base), _BASE)
        assert imported.returncode == 0, imported.stderr
    podman.build(AGENT_IMAGE, f"--build-arg=BASE={_BASE}")
    arguments = [f"--build-arg=BASE={_BASE}", f"--build-arg=AGENT={AGENT_IMAGE}"]
    podman.build(JOB_IMAGE, "--file=deploy/job.Dockerfile", *arguments)
    # Layers of former builds; those of today are the cache.
    podman.call("image", "prune", "--force", "--filter=until=24h")


@pytest.fixture
def podman(images: None) -> Iterator[Podman]:
    podman = Podman(f"aura-{os.getpid()}-{os.urandom(3).hex()}")
    try:
        yield podman
    finally:
        podman.clean_up()
