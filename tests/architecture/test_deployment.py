"""Docker cannot run in the test suite, so the files are read as a reviewer would read them."""

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_every_build_target_exists_and_the_api_has_no_torch() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    targets = {service["build"]["target"] for service in COMPOSE["services"].values() if "build" in service}
    assert targets == {"api", "worker"}
    assert targets <= set(stages)
    before_worker = DOCKERFILE.split("FROM base AS worker")[0]
    assert "[worker" not in before_worker


def test_services_start_in_order() -> None:
    services = COMPOSE["services"]
    assert services["migrate"]["depends_on"]["db"]["condition"] == "service_healthy"
    for name in ("api", "worker", "worker-cpu-queue", "worker-without-gpu"):
        assert services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_one_gpu_is_reserved_by_the_gpu_worker_alone() -> None:
    reserving = {name: service["deploy"] for name, service in COMPOSE["services"].items() if "deploy" in service}
    assert list(reserving) == ["worker"]
    (device,) = reserving["worker"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert COMPOSE["services"]["worker-without-gpu"]["profiles"] == ["cpu"]


def test_only_the_api_is_reachable_and_only_from_this_machine() -> None:
    ports = {name: service["ports"] for name, service in COMPOSE["services"].items() if "ports" in service}
    assert list(ports) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in ports["api"])


def test_required_variables_are_in_the_example() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert required == {"FALQON_ADMIN_KEY", "FALQON_SESSION_SECRET", "POSTGRES_PASSWORD"}
    assert required <= set(re.findall(r"^#? ?(\w+)=", (ROOT / ".env.example").read_text(), re.M))


def test_the_image_is_built_from_everything_the_packages_need() -> None:
    allowed = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M))
    copied = {source for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.M) for source in line.split()[:-1]}
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)
