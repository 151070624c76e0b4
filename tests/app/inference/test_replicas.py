"""Several engines of a model: two workers answer for one, and one of them may die."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from sqlalchemy import update

from app.base.database import now_plus
from app.base.ids import new_id
from app.base.settings import Settings
from app.catalogue.importer import TINY_MODEL_ID, ensure_tiny_model
from app.inference.known_targets import LIFETIME_SECONDS
from app.models import Engine, EngineState, Model
from falqon_core.estimate import host_memory
from tests.app.inference.test_engines import install_vllm
from tests.support import vllm_stand_in
from tests.support.api import TINY_CONFIG, Api, Tenant, installation_admin
from tests.support.backend import Backend
from tests.support.engines import engine_worker
from tests.support.forks import Fork
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for
from worker.machine.engine_samples import read_samples

NUM_QUESTIONS = 16
NEXT_ANSWER_SECONDS = 5.0  # where a replica stands
LOAD_SECONDS = 60.0
LEASE = timedelta(seconds=6)
STREAM_SECONDS = 15.0  # longer than a surplus engine stays that nobody uses
DRAIN_SECONDS = 40.0
QUESTION = {"model": TINY_MODEL_ID, "messages": [{"role": "user", "content": "Hello"}]}


class Service:
    """An API in this process, and workers that are processes, on one database."""

    def __init__(self, backend: Backend) -> None:
        settings = backend.settings
        self.backend = backend
        self.valkey = Valkey(settings.data_dir)
        self.api = Api(
            settings.resolved_database_url,
            settings.data_dir,
            engine_wait=timedelta(seconds=LOAD_SECONDS),
            redis_url=settings.resolved_redis_url,
        )
        self.tenant = Tenant(self.api)
        ensure_tiny_model(self.api.database, self.api.storage, self.api.settings)

    def start_worker(self) -> Fork:
        return self.backend.start_worker("cpu")

    def set_replicas(self, number: int, model_id: str = TINY_MODEL_ID) -> None:
        with installation_admin(self.api) as admin:
            admin.post(f"/v1/models/{model_id}", json={"replicas": number}).raise_for_status()

    def ask(self, **fields: object) -> httpx.Response:
        return self.tenant.http.post(
            "/v1/chat/completions", json=QUESTION | {"max_tokens": 8} | fields
        )

    def ready(self) -> list[Engine]:
        return [engine for engine in engines_of(self.api) if is_ready(engine)]

    def wait_for_ready(self, number: int) -> list[Engine]:
        """Ask now and then: what is missing is loaded for those who ask."""

        def are_ready() -> bool:
            answer = self.ask()
            assert answer.status_code == 200, answer.text
            return len(self.ready()) == number

        wait_for(are_ready, LOAD_SECONDS, f"{number} engines are ready", every_seconds=0.5)
        time.sleep(LIFETIME_SECONDS)  # until then the API may know fewer
        return self.ready()

    def close(self) -> None:
        self.tenant.http.close()
        self.api.stop()
        self.valkey.kill()


def engines_of(api: Api, model_id: str = TINY_MODEL_ID) -> list[Engine]:
    with api.database.read() as session:
        engines = session.query(Engine).where(Engine.model_id == model_id)
        return list(engines.order_by(Engine.replica))


def is_ready(engine: Engine) -> bool:
    return engine.state == EngineState.READY and engine.lease_expires_at > datetime.now(UTC)


def num_written(engine: Engine) -> float:
    """Return how many tokens an engine has written."""
    return read_samples(engine.address or "", engine.token or "")["llamacpp:tokens_predicted_total"]


def num_running(engine: Engine) -> float:
    return read_samples(engine.address or "", engine.token or "")[vllm_stand_in.NUM_STREAMS]


@pytest.fixture
def service(backend: Backend) -> Iterator[Service]:
    values = {
        "trainer_command": Settings(_env_file=None).trainer_command,
        "lease": LEASE,
        "num_threads": 1,
    }
    backend.settings = backend.settings.model_copy(update=values)
    service = Service(backend)
    yield service
    backend.close()
    service.close()


def test_two_workers_answer_for_one_model_and_one_is_killed_under_load(service: Service) -> None:
    victim, _ = service.start_worker(), service.start_worker()
    service.set_replicas(2)
    ready = service.wait_for_ready(2)
    assert len({engine.owner for engine in ready}) == 2
    before = [num_written(engine) for engine in ready]
    with ThreadPoolExecutor(NUM_QUESTIONS) as pool:
        answers = list(pool.map(lambda _: service.ask(), range(NUM_QUESTIONS)))
    assert {answer.status_code for answer in answers} == {200}
    assert all(
        num_written(engine) > tokens for engine, tokens in zip(ready, before, strict=True)
    ), "both have answered"

    ending = threading.Event()
    statuses: list[int] = []

    def keep_asking() -> None:
        while not ending.is_set():
            statuses.append(service.ask().status_code)

    askers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for asker in askers:
        asker.start()
    wait_for(lambda: len(statuses) > len(askers), what="they are answered")
    victim.kill()
    killed_at = time.monotonic()
    assert service.ask().status_code == 200
    assert time.monotonic() < killed_at + NEXT_ANSWER_SECONDS
    num_answered = len(statuses)
    wait_for(lambda: len(statuses) > num_answered + 2 * len(askers), what="the others go on")
    ending.set()
    for asker in askers:
        asker.join()
    assert set(statuses) == {200}, "no one noticed"

    service.start_worker()
    again = service.wait_for_ready(2)
    assert {engine.replica for engine in again} == {0, 1}
    owners = [{engine.owner for engine in engines} for engines in (ready, again)]
    assert len(owners[0] & owners[1]) == 1, "another worker has the dead one's"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_surplus_engine_ends_once_its_stream_has(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_vllm(tmp_path / "bin", monkeypatch, free_mib=80_000)
    model_id = new_id("acme/counting-")
    with service.api.database.transaction() as session:
        session.add(Model(id=model_id, config=TINY_CONFIG, bytes=0))
    service.set_replicas(2, model_id)
    with engine_worker(service.api), engine_worker(service.api), ExitStack() as streams:

        def are_ready() -> bool:
            assert service.ask(model=model_id).status_code == 200
            return [is_ready(each) for each in engines_of(service.api, model_id)] == [True, True]

        wait_for(are_ready, LOAD_SECONDS, "both are ready", every_seconds=0.5)
        time.sleep(LIFETIME_SECONDS)  # until then the API may know one
        question = QUESTION | {"model": model_id, "stream": True}
        lines = []
        for _ in range(2):  # the second goes to the other engine
            request = ("POST", "/v1/chat/completions")
            stream = streams.enter_context(service.tenant.http.stream(*request, json=question))
            lines.append(stream.iter_lines())
            next(lines[-1])
        assert list(map(num_running, engines_of(service.api, model_id))) == [1, 1]
        service.set_replicas(1, model_id)
        until = time.monotonic() + STREAM_SECONDS
        while time.monotonic() < until:
            for stream_lines in lines:
                assert "error" not in next(stream_lines)
        assert len(engines_of(service.api, model_id)) == 2
        streams.close()
        wait_for(
            lambda: [each.replica for each in engines_of(service.api, model_id)] == [0],
            DRAIN_SECONDS,
            "the surplus one has ended",
        )
        assert service.ask(model=model_id).status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_without_the_memory_leaves_a_model_to_others(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = tmp_path / "groups"
    groups.mkdir()
    for name, content in (("max", "1024"), ("current", "0"), ("stat", "inactive_file 0")):
        (groups / f"memory.{name}").write_text(f"{content}\n")
    monkeypatch.setattr(host_memory, "CGROUPS", groups)  # as in a container
    with engine_worker(service.api, lease=LEASE):
        refused = service.ask()
        assert refused.json()["error"]["code"] == "engine_out_of_memory"
        assert "MiB of memory and 0 MiB are free" in refused.json()["error"]["message"]
        (engine,) = engines_of(service.api)
        assert engine.attempt == 0, "no worker has claimed it"
        service.start_worker()  # a process, which the limit does not concern

        def is_answered() -> bool:
            return service.ask().status_code == 200

        wait_for(is_answered, LOAD_SECONDS, "the other worker has loaded it")
        service.set_replicas(2)

        def reason() -> str | None:
            with installation_admin(service.api) as admin:
                rows = admin.get("/v1/engines").json()["data"]
            waiting = [row for row in rows if row["status"] == "waiting"]
            return waiting[0]["reason"] if waiting else None

        told = wait_for(reason, what="it says why there is no second one")
        assert "MiB are free" in told or "A worker loads a model once" in told
        assert service.ask().status_code == 200, "the first one answers"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_engine_that_is_kept_is_loaded_again_before_anybody_asks(service: Service) -> None:
    with installation_admin(service.api) as admin, engine_worker(service.api, lease=LEASE):
        assert service.ask().status_code == 200
        kept = admin.post(f"/v1/engines/{TINY_MODEL_ID}", json={"keep_loaded": True})
        assert kept.json()["keep_loaded"]
        service.set_replicas(2)
        with service.api.database.transaction() as session:
            gone = {"owner": "gone", "state": EngineState.READY, "attempt": Engine.attempt + 1}
            standby = update(Engine).where(Engine.replica == 1)
            session.execute(standby.values(**gone, lease_expires_at=now_plus(-1)))
        with engine_worker(service.api, lease=LEASE):
            wait_for(lambda: len(service.ready()) == 2, LOAD_SECONDS, "the standby is back")
        assert all(engine.keep_loaded for engine in engines_of(service.api))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_replicas_of_a_model_are_its_projects(service: Service) -> None:
    other = Tenant(service.api)
    model_id = "ft:tiny:acme::1"
    service.tenant.add_model(model_id, project_id=service.tenant.project_id)
    path = f"/v1/models/{model_id}"
    changed = service.tenant.http.post(path, json={"replicas": 2}).raise_for_status()
    assert changed.json()["replicas"] == 2
    assert service.tenant.http.get(path).json()["replicas"] == 2
    assert other.http.post(path, json={"replicas": 3}).status_code == 404
    with service.api.database.transaction() as session:
        for replica in range(2):
            row = {"model_id": model_id, "replica": replica, "state": EngineState.WAITING}
            session.add(Engine(**row, used_at=now_plus()))
    own = [row["id"] for row in service.tenant.http.get("/v1/engines").json()["data"]]
    assert own == [model_id, model_id]
    assert other.http.get("/v1/engines").json()["data"] == []
    other.http.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_wrong_numbers_of_replicas_are_refused(service: Service) -> None:
    tenant = service.tenant
    model_id = "ft:tiny:acme::1"
    tenant.add_model(model_id, project_id=tenant.project_id)
    with service.api.database.transaction() as session:
        adapter = {"id": f"{model_id}:lora", "format": "lora", "config": {}, "bytes": 0}
        session.add(Model(project_id=tenant.project_id, **adapter))
    for replicas in (0, 17, -1, 10**30, 1.5, "2", True):
        refused = tenant.http.post(f"/v1/models/{model_id}", json={"replicas": replicas})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "replicas")
    assert tenant.http.post(f"/v1/models/{model_id}", json={}).status_code == 400
    base = tenant.http.post(f"/v1/models/{tenant.base_model}", json={"replicas": 2})
    assert base.json()["error"]["code"] == "model_not_changeable"
    adapter = tenant.http.post(f"/v1/models/{model_id}:lora", json={"replicas": 2})
    assert adapter.json()["error"]["code"] == "model_not_servable"
