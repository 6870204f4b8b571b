"""The manifests of deploy/kubernetes as plain values."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DIRECTORY = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
NAMES = sorted(path.name for path in DIRECTORY.glob("*.yaml"))


def documents(name: str) -> list[dict[str, Any]]:
    """Return the documents of one manifest. Skips the test where there is no PyYAML."""
    yaml: Any = pytest.importorskip("yaml")
    return list(yaml.safe_load_all((DIRECTORY / name).read_text()))


def of_kind(name: str, kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents(name) if document["kind"] == kind]
    return found


def pod_spec(name: str) -> dict[str, Any]:
    """Return the pod that the manifest's CronJob makes."""
    spec: dict[str, Any] = of_kind(name, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


def containers(name: str) -> Iterator[dict[str, Any]]:
    pod = pod_spec(name)
    yield from pod.get("initContainers", [])
    yield from pod["containers"]


def container(name: str, called: str) -> dict[str, Any]:
    (found,) = [each for each in containers(name) if each["name"] == called]
    return found
