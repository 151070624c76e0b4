"""Docker cannot run in the test suite, so the files are read as a reviewer would read them."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.base.settings import Settings
from tests.deployment.dockerfile import our_stages
from tests.support.api import Api
from tests.support.local_server import QuietHandler, RefusingProxy, serving_by

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = {stage.name: stage for stage in our_stages()}


def test_every_build_target_of_compose_exists_and_the_api_image_has_no_torch() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.M)
    targets = {
        service["build"]["target"] for service in COMPOSE["services"].values() if "build" in service
    }
    assert targets == {"api", "worker"}
    assert targets <= set(stages)
    before_worker = DOCKERFILE.split("FROM base AS worker")[0]
    assert "[worker" not in before_worker
    assert not any(
        "worker.txt" in rest for name in ("base", "api") for rest in STAGES[name].arguments("RUN")
    )


def test_compose_starts_its_services_in_order() -> None:
    services = COMPOSE["services"]
    assert services["migrate"]["depends_on"]["db"]["condition"] == "service_healthy"
    for name in ("api", "worker", "worker-cpu-queue", "worker-without-gpu"):
        assert (
            services[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"
        )


def test_the_gpu_worker_alone_reserves_a_gpu() -> None:
    reserving = {
        name: service["deploy"]
        for name, service in COMPOSE["services"].items()
        if "deploy" in service
    }
    assert list(reserving) == ["worker"]
    (device,) = reserving["worker"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["${GPU:-0}"], "capabilities": ["gpu"]}
    assert COMPOSE["services"]["worker-without-gpu"]["profiles"] == ["cpu"]


def test_compose_publishes_only_the_api_and_only_on_localhost() -> None:
    ports = {
        name: service["ports"]
        for name, service in COMPOSE["services"].items()
        if "ports" in service
    }
    assert list(ports) == ["api"]
    assert all(port.startswith("127.0.0.1:") for port in ports["api"])


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("api:8000", 200), ("a.b", 400)],
)
def test_the_api_of_compose_answers_to_its_own_names_alone(
    tmp_path: Path, host: str, status: int
) -> None:
    value = COMPOSE["services"]["api"]["environment"]["FALQON_HOSTS"]
    default = value.removeprefix("${FALQON_HOSTS:-").removesuffix("}")
    api = Api(f"sqlite:///{tmp_path}/falqon.db", tmp_path, hosts=json.loads(default))
    try:
        assert httpx.get(f"{api.url}/healthz", headers={"host": host}).status_code == status
    finally:
        api.stop()


def test_the_env_example_has_every_required_variable() -> None:
    required = set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yml").read_text()))
    assert required == {"FALQON_ADMIN_KEY", "FALQON_SESSION_SECRET", "POSTGRES_PASSWORD"}
    assert required <= set(re.findall(r"^#? ?(\w+)=", (ROOT / ".env.example").read_text(), re.M))


def test_the_image_copies_every_package() -> None:
    allowed = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M))
    copied = {
        source
        for line in re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_env_file_reaches_every_container_of_the_service() -> None:
    """AWS_… and FALQON_… among it; what compose must decide itself stands in `environment`, which
    wins.
    """
    ours = {name: service for name, service in COMPOSE["services"].items() if "build" in service}
    assert set(ours) == {"migrate", "api", "worker", "worker-cpu-queue", "worker-without-gpu"}
    for name, service in ours.items():
        assert service["env_file"] == [".env"], name
        assert COMPOSE["x-environment"].items() <= service["environment"].items(), name
    assert {"DATABASE_URL", "REDIS_URL", "FALQON_DATA_DIR"} <= set(COMPOSE["x-environment"])


@pytest.mark.parametrize(
    ("variable", "services"),
    [
        ("FALQON_ADMIN_KEY", {"api", "migrate"}),
        ("FALQON_SESSION_SECRET", {"api"}),
        ("FALQON_OIDC_CLIENT_SECRET", {"api"}),
        ("POSTGRES_PASSWORD", {"db"}),
    ],
)
def test_a_secret_reaches_the_containers_that_need_it(variable: str, services: set[str]) -> None:
    """An empty variable of `environment` hides that of the file, and counts as not set."""
    for name, service in COMPOSE["services"].items():
        is_hidden = service.get("environment", {}).get(variable) == ""
        has_file = "env_file" in service
        has_it = variable in service.get("environment", {}) or has_file
        assert (has_it and not is_hidden) is (name in services), name


def test_every_container_has_a_limit_of_memory_and_of_its_log() -> None:
    for name, service in COMPOSE["services"].items():
        assert "mem_limit" in service, name
        assert service["logging"] == COMPOSE["x-logging"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        if "build" in service:
            assert service["cap_drop"] == ["ALL"]


def test_no_url_of_compose_holds_a_password() -> None:
    for service in COMPOSE["services"].values():
        urls = [value for value in service.get("environment", {}).values() if "://" in value]
        assert not any("PASSWORD" in url for url in urls)
    assert COMPOSE["x-environment"]["PGPASSWORD"] == "${POSTGRES_PASSWORD:?set it in .env}"


def test_the_image_installs_dependencies_before_it_copies_the_code() -> None:
    for stage in (STAGES["api"], STAGES["worker"]):
        lines = [
            f"{instruction.word} {instruction.rest}"
            for instruction in STAGES[stage.base].instructions + stage.instructions
        ]
        code = lines.index("COPY --from=code / ./")
        assert all("pip install -r" not in line for line in lines[code:])
        assert [line for line in lines[code:] if "pip install" in line] == [
            "RUN pip install --no-deps --no-build-isolation --editable ."
        ]
    context = [
        rest for name in ("base", "api", "worker") for rest in STAGES[name].arguments("COPY")
    ]
    assert [rest for rest in context if not rest.startswith("--from=")] == [
        "requirements /requirements"
    ], "a changed file of the code would end the cache"


def test_the_training_image_has_a_compiler_and_checks_it() -> None:
    lines = STAGES["worker"].arguments("RUN")
    (tools,) = [line for line in lines if "apt-get install" in line]
    assert {"gcc", "libc6-dev"} <= set(tools.split())
    assert "python -m falqon_core.ops.toolchain" in lines[-1]
    assert importlib.util.find_spec("falqon_core.ops.toolchain")


def test_every_service_of_compose_has_a_health_check() -> None:
    for name in ("api", "worker"):
        assert len(STAGES[name].arguments("HEALTHCHECK")) == 1
    assert COMPOSE["services"]["migrate"]["healthcheck"] == {"disable": True}, (
        "it ends, and serves no port"
    )
    assert all("healthcheck" in COMPOSE["services"][name] for name in ("db", "redis"))


@pytest.mark.parametrize(("age", "is_well"), [(0, True), (60, True), (300, False), (None, False)])
def test_the_health_check_fails_for_a_worker_that_has_stood_still_for_two_minutes(
    tmp_path: Path, age: int | None, is_well: bool
) -> None:
    """The command of the Dockerfile is run."""
    command = STAGES["worker"].arguments("HEALTHCHECK")[0].partition(" CMD ")[2]
    file = tmp_path / "alive"
    if age is not None:
        file.touch()
        os.utime(file, (time.time() - age,) * 2)
    environment = {"FALQON_ALIVE_FILE": str(file), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=environment, capture_output=True, check=False
    )
    assert (done.returncode == 0) == is_well
    assert done.returncode in (0, 1), "Docker keeps other codes for itself"


def test_every_commented_line_of_the_env_example_is_a_valid_setting() -> None:
    lines = re.findall(r"^# ?([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.M)
    settings = {f"FALQON_{name}".upper() for name in Settings.model_fields}
    for name, value in lines:
        assert value.startswith(("'", "[", "{")) or " " not in value, (
            f"{name}: a comment would be part of the value"
        )
        assert not name.startswith("FALQON_") or name in settings


def test_compose_gives_the_api_the_time_that_it_gives_open_requests() -> None:
    command = STAGES["api"].arguments("CMD")[0]
    grace = json.loads(command)[json.loads(command).index("--grace") + 1]
    period = COMPOSE["services"]["api"]["stop_grace_period"]
    assert int(period.removesuffix("s")) > int(grace)


def second_card() -> str:
    """What the document has an operator write."""
    document = (ROOT / "docs" / "compose.md").read_text()
    (lines,) = re.findall(r"```yaml\n(.*?)```", document, re.S)
    return str(lines)


def test_the_documented_lines_add_a_worker_for_a_second_gpu() -> None:
    lines = second_card()
    second = yaml.load(lines, Loader=_Compose)["services"]["worker-1"]
    assert second["extends"] == {"file": "docker-compose.yml", "service": "worker"}
    (device,) = second["deploy"]["resources"]["reservations"]["devices"]
    (first,) = COMPOSE["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == first | {"device_ids": ["1"]}


class _Compose(yaml.SafeLoader):
    """Knows compose's tag for a list that takes another's place."""


_Compose.add_constructor(
    "!override", lambda loader, node: loader.construct_sequence(node, deep=True)
)


@pytest.mark.skipif(
    shutil.which("docker-compose") is None, reason="no docker-compose on this machine"
)
def test_docker_compose_parses_the_file_as_these_tests_do(tmp_path: Path) -> None:
    for name in ("docker-compose.yml", "Dockerfile"):
        shutil.copy(ROOT / name, tmp_path)
    lines = second_card()
    (tmp_path / "docker-compose.override.yml").write_text(lines)
    password = "p@ss/w:rd%41 $1 #2"
    dotenv = {
        "FALQON_ADMIN_KEY": "a" * 20,
        "FALQON_SESSION_SECRET": "s",
        "POSTGRES_PASSWORD": f"'{password}'",
    }
    dotenv |= {
        "AWS_ACCESS_KEY_ID": "AKIA",
        "FALQON_DEVICE": "h100",
        "FALQON_DATA_DIR": ".falqon",
    }
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in dotenv.items()))
    command = ["docker-compose", "--profile", "cpu", "config", "--format", "json"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout.replace("$$", "$"))["services"]
    for name in ("migrate", "api", "worker", "worker-1", "worker-cpu-queue", "worker-without-gpu"):
        has = services[name]["environment"]
        assert (has["AWS_ACCESS_KEY_ID"], has["FALQON_DEVICE"], has["PGPASSWORD"]) == (
            "AKIA",
            "h100",
            password,
        )
        assert has["FALQON_DATA_DIR"] == "/var/lib/falqon"
    assert services["db"]["environment"]["POSTGRES_PASSWORD"] == password
    assert services["api"]["environment"]["FALQON_ADMIN_KEY"] == dotenv["FALQON_ADMIN_KEY"]
    assert services["worker"]["environment"]["FALQON_ADMIN_KEY"] == ""
    assert json.loads(services["api"]["environment"]["FALQON_HOSTS"]) == ["localhost", "api"]
    assert "AWS_ACCESS_KEY_ID" not in services["db"]["environment"]
    cards = [
        services[name]["deploy"]["resources"]["reservations"]["devices"]
        for name in ("worker", "worker-1")
    ]
    assert [[device["device_ids"] for device in each] for each in cards] == [[["0"]], [["1"]]]


def test_the_health_check_of_the_api_goes_through_no_proxy() -> None:
    class Healthy(QuietHandler):
        def do_GET(self) -> None:
            self.send(200 if self.path == "/healthz" else 404)

    (check,) = STAGES["api"].arguments("HEALTHCHECK")
    with serving_by(RefusingProxy) as proxy, serving_by(Healthy) as url:
        command = json.loads(check.partition(" CMD ")[2].replace("http://127.0.0.1:8000", url))
        assert command[0] == "python"
        environment = os.environ | {"http_proxy": proxy, "no_proxy": "", "NO_PROXY": ""}
        subprocess.run([sys.executable, *command[1:]], env=environment, check=True)
    unhealthy = subprocess.run([sys.executable, *command[1:]], capture_output=True, check=False)
    assert unhealthy.returncode != 0
