"""`falqon dispatch --to kueue`, against an API server whose controllers the tests are."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from app.dispatch.dispatcher import Dispatcher
from app.dispatch.kubernetes import Api
from app.dispatch.kueue import Kueue
from app.dispatch.starts import SchedulerUnavailable
from app.models import DEFAULT_PROJECT_ID, Desired, JobStatus, Project
from tests.app.dispatch.test_slurm import add_job, running
from tests.support.backend import Backend
from tests.support.forks import ROOT, Fork, run_falqon
from tests.support.kubernetes_api import KubernetesApi
from tests.support.waiting import wait_for

SECONDS = 60.0
(TEMPLATE,) = (
    each
    for each in yaml.safe_load_all(
        (ROOT / "deploy/kubernetes/components/kueue/dispatch.yaml").read_text()
    )
    if each["kind"] == "PodTemplate"
)


@pytest.fixture
def server() -> Iterator[KubernetesApi]:
    server = KubernetesApi()
    server.templates["falqon-worker"] = TEMPLATE
    with server.served():
        yield server


@pytest.fixture
def api(server: KubernetesApi) -> Iterator[Api]:
    api = Api(server.url, "team")
    yield api
    api.close()


def dispatcher_of(backend: Backend, api: Api, queue: str = "gpus") -> Dispatcher:
    kueue = Kueue(api, queue, "research", "falqon-worker")
    return Dispatcher(backend.database, kueue, 0.05, clock=lambda: next(CLOCK))


def minutes() -> Iterator[float]:
    now = 0.0
    while True:
        now += 3600
        yield now


CLOCK = minutes()  # Each look is so much later that nothing waits for its repetition.


def test_a_waiting_job_becomes_a_suspended_job_of_kueue_with_its_cards(
    embedded_backend: Backend, server: KubernetesApi, api: Api
) -> None:
    backend = embedded_backend
    job_id = add_job(backend, num_gpus=4, gpu="h100")
    with backend.database.transaction() as session:
        session.get_one(Project, DEFAULT_PROJECT_ID).name = "Vision & Sound (EU)"
    dispatcher = dispatcher_of(backend, api, "team-{project}")
    for _ in range(2):
        dispatcher.tick()
    ((name, job),) = server.jobs.items()
    assert name == f"falqon-{job_id}"
    labels = job["metadata"]["labels"]
    assert labels["kueue.x-k8s.io/queue-name"] == "team-vision-sound-eu"
    assert labels["kueue.x-k8s.io/priority-class"] == "research"
    assert (job["spec"]["suspend"], job["spec"]["backoffLimit"]) == (True, 0)
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"falqon/device": "h100"}
    assert pod["containers"][0]["args"][-2:] == ["--job", job_id]
    resources: dict[str, Any] = pod["containers"][0]["resources"]
    assert resources["requests"] == {
        "cpu": "16",
        "memory": "128Gi",
        "ephemeral-storage": "4Gi",
    }
    assert resources["limits"] == {
        "memory": "256Gi",
        "ephemeral-storage": "80Gi",
        "nvidia.com/gpu": "4",
    }
    assert TEMPLATE["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"] == "64Gi"


def test_what_has_begun_is_left_alone_and_what_is_no_longer_wanted_goes(
    embedded_backend: Backend, server: KubernetesApi, api: Api
) -> None:
    backend, dispatcher = embedded_backend, dispatcher_of(embedded_backend, api)
    trained, cancelled, paused, elsewhere, waiting = (add_job(backend) for _ in range(5))
    foreign = f"falqon-ftjob-{'0' * 32}"  # Of another installation in this namespace.
    dispatcher.tick()
    assert len(server.jobs) == 5
    server.jobs[foreign] = server.jobs[f"falqon-{waiting}"] | {
        "metadata": server.jobs[f"falqon-{waiting}"]["metadata"] | {"name": foreign}
    }
    server.admit(f"falqon-{trained}")
    for job_id in (trained, elsewhere):
        backend.set(job_id, **running())
    backend.set(cancelled, status=JobStatus.CANCELLED, desired=Desired.CANCEL)
    backend.set(paused, status=JobStatus.PAUSED)
    dispatcher.tick()
    assert set(server.jobs) == {f"falqon-{trained}", f"falqon-{waiting}", foreign}


def test_a_preempted_job_keeps_its_place_and_one_that_has_ended_is_followed(
    embedded_backend: Backend, server: KubernetesApi, api: Api
) -> None:
    backend, dispatcher = embedded_backend, dispatcher_of(embedded_backend, api)
    job_id = add_job(backend)
    dispatcher.tick()
    first = f"falqon-{job_id}"
    uid = server.jobs[first]["metadata"]["uid"]
    server.admit(first)
    server.admit(first, is_admitted=False)
    backend.set(job_id, attempt=1)
    dispatcher.tick()
    assert {name: job["metadata"]["uid"] for name, job in server.jobs.items()} == {first: uid}
    server.finish(first, "Failed")
    dispatcher.tick()
    assert set(server.jobs) == {first, f"{first}-2"}
    # It ended without taking the job: the name is freed for the next one.
    uid = server.jobs[f"{first}-2"]["metadata"]["uid"]
    server.finish(f"{first}-2")
    dispatcher.tick()
    assert server.jobs[f"{first}-2"]["metadata"]["uid"] != uid


def test_a_start_that_is_admitted_while_it_is_withdrawn_stays(
    embedded_backend: Backend, server: KubernetesApi, api: Api
) -> None:
    backend = embedded_backend
    kueue = Kueue(api, "gpus", "", "falqon-worker")
    job_id = add_job(backend)
    Dispatcher(backend.database, kueue, 1).tick()
    (start,) = kueue.list()
    server.admit(f"falqon-{job_id}")
    kueue.withdraw(start)
    assert set(server.jobs) == {f"falqon-{job_id}"}
    server.jobs.clear()
    kueue.withdraw(start)


@pytest.mark.parametrize("point", ["before_dispatch", "after_dispatch"])
def test_a_killed_dispatcher_and_a_second_one_make_one_start_a_job(
    embedded_backend: Backend, server: KubernetesApi, point: str, tmp_path: Path
) -> None:
    jobs = [add_job(embedded_backend) for _ in range(3)]
    armed = {"FAULT_POINTS": f"{point}=exit*2", "FAULT_MARKS": str(tmp_path)}
    command = f"dispatch --to kueue --queue-name q --namespace team --server {server.url}".split()
    environment = embedded_backend.environment() | armed
    log = tmp_path / "log"
    killed = Fork(run_falqon, command, environment=environment, output=log)
    assert killed.wait(SECONDS) == 137, log.read_text()
    rivals = [Fork(run_falqon, command, environment=environment, output=log) for _ in range(2)]
    try:
        wait_for(lambda: len(server.jobs) == len(jobs), SECONDS, "all starts")
    finally:
        for rival in rivals:
            rival.terminate()
    # The later one may still be about to start.
    assert {rival.wait(SECONDS) for rival in rivals} <= {0, -signal.SIGTERM}, log.read_text()
    assert set(server.jobs) == {f"falqon-{job_id}" for job_id in jobs}
    assert (
        "DELETE",
        f"/apis/batch/v1/namespaces/team/jobs/falqon-{jobs[0]}",
    ) not in server.requests


def test_a_server_that_does_not_serve_is_an_outage_with_its_reason(
    embedded_backend: Backend, server: KubernetesApi, api: Api
) -> None:
    dispatcher = dispatcher_of(embedded_backend, api)
    add_job(embedded_backend)
    server.is_away = True
    with pytest.raises(SchedulerUnavailable, match="the server is starting"):
        dispatcher.tick()
    server.is_away = False
    template = server.templates.pop("falqon-worker")
    with pytest.raises(SchedulerUnavailable, match='podtemplates "falqon-worker" not found'):
        dispatcher.tick()
    server.templates["falqon-worker"] = template
    server.token = "another"
    with pytest.raises(SchedulerUnavailable, match="Unauthorized"):
        dispatcher.tick()
    server.token = None
    dispatcher.tick()
    assert len(server.jobs) == 1


def test_a_job_that_the_server_does_not_accept_is_said_once(
    embedded_backend: Backend, server: KubernetesApi, api: Api
) -> None:
    dispatcher = dispatcher_of(embedded_backend, api)
    container = {"name": "worker", "imagee": "typo"}
    server.templates["falqon-worker"] = {"template": {"spec": {"containers": [container]}}}
    for _ in range(2):
        add_job(embedded_backend)
    with capture_logs() as lines:
        for _ in range(2):
            dispatcher.tick()
    assert len(lines) == 1, lines
    (line,) = lines
    assert "is invalid" in line["reason"]
    assert not server.jobs
