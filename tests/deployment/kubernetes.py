"""The objects of deploy/kubernetes: as they are written, and as an overlay renders them."""

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kubernetes"
VERSION = "1.32"
PACKAGE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
MIGRATION = f"falqon-migrate-{PACKAGE.replace('.', '-')}"
# Kinds that Kubernetes itself does not have.
FOREIGN = {
    "Component",
    "Kustomization",
    "PodMonitor",
    "PrometheusRule",
    "ScaledJob",
    "ScaledObject",
}
OVERLAYS = sorted(path.name for path in (FOLDER / "overlays").iterdir())
COMPONENTS = ("keda", "kueue", "once")
needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None,
    reason="no kubectl on this machine (Debian: apt-get install kubectl)",
)
Json = dict[str, Any]


class Pod(NamedTuple):
    """A pod that an object makes."""

    name: str
    labels: dict[str, str]
    spec: Json

    @property
    def containers(self) -> list[Json]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


def read(path: Path) -> list[Json]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each is not None]


def is_patch(path: Path) -> bool:
    """Return whether the file holds a part of an object."""
    (kustomization,) = read(path.parent / "kustomization.yaml")
    return {"path": path.name} in kustomization.get("patches", [])


def written() -> list[Json]:
    """Return every whole object of every file."""
    paths = sorted(FOLDER.rglob("*.yaml"))
    return [each for path in paths if not is_patch(path) for each in read(path)]


@cache
def _render(folder: Path) -> str:
    done = subprocess.run(
        ["kubectl", "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(folder: Path) -> list[Json]:
    """Return the objects that `kubectl apply -k` would send."""
    return list(yaml.safe_load_all(_render(folder)))


def pods_of(objects: list[Json]) -> Iterator[Pod]:
    for each in objects:
        match each["kind"]:
            case "Deployment" | "Job":
                template = each["spec"]["template"]
            case "CronJob":
                template = each["spec"]["jobTemplate"]["spec"]["template"]
            case "ScaledJob":
                template = each["spec"]["jobTargetRef"]["template"]
            case "PodTemplate":
                template = each["template"]
            case _:
                continue
        name = each["metadata"]["name"]
        yield Pod(name, template["metadata"]["labels"], template["spec"])


def named(objects: list[Json], kind: str, name: str) -> Json:
    (found,) = [
        each
        for each in objects
        if each["kind"] == kind and each.get("metadata", {}).get("name") == name
    ]
    return found
