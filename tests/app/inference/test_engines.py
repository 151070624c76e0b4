"""What becomes of engines: they go when nobody asks, and come back when somebody does."""

import os
import re
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import APIError, BadRequestError, InternalServerError, NotFoundError
from sqlalchemy import delete, update

from app.base.database import now_plus
from app.base.ids import new_id
from app.inference import claims
from app.inference.known_targets import LIFETIME_SECONDS
from app.models import Engine, EngineState, Model
from falqon_core.estimate import host_memory
from tests.support import vllm_stand_in
from tests.support.api import TINY_CONFIG, Api, Tenant, installation_admin
from tests.support.backend import processes
from tests.support.waiting import wait_for
from worker.inference.llama_cpp import PARALLEL_ANSWERS
from worker.inference.memory import cache_bytes
from worker.inference.metrics import EngineMetrics

MODEL = "falqon-tiny"
HELLO = [{"role": "user", "content": "Hello"}]


def ask(tenant: Tenant, **options: object) -> str:
    question = {"model": MODEL, "messages": HELLO, "max_tokens": 1} | options
    answer = tenant.client.with_options(max_retries=0).chat.completions.create(**question)
    return str(answer.choices[0].message.content)


def engine_of(api: Api, model_id: str = MODEL) -> Engine | None:
    with api.database.read() as session:
        return session.get(Engine, (model_id, 0))


def programs(api: Api) -> list[int]:
    return processes("worker.inference.llama_cpp", str(api.settings.data_dir.resolve()))


def install_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch, free_mib: int) -> None:
    """A stand-in for vLLM, and a GPU that has so much free."""
    vllm_stand_in.install(folder, monkeypatch)
    smi = folder / "nvidia-smi"
    smi.write_text(f"#!/bin/sh\necho {free_mib}\n")
    smi.chmod(0o755)


@pytest.fixture
def counting(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model whose answers do not end while somebody listens."""
    install_vllm(tmp_path / "bin", monkeypatch, free_mib=80_000)
    id_ = new_id("acme/counting-")
    with api.database.transaction() as session:
        session.add(Model(id=id_, config=TINY_CONFIG, bytes=0))
    return id_


def test_an_engine_that_dies_ends_its_streams_with_an_error_and_is_loaded_again(
    api: Api, tenant: Tenant, counting: str
) -> None:
    def servers() -> list[int]:
        return processes("vllm_stand_in.py", str(api.settings.data_dir.resolve()))

    ask(tenant, model=counting)
    stream = tenant.client.chat.completions.create(model=counting, messages=HELLO, stream=True)
    next(iter(stream))
    (server,) = servers()
    os.kill(server, signal.SIGKILL)
    with pytest.raises(APIError, match="ended before the answer"):
        for _ in stream:
            pass
    assert "serve" in ask(tenant, model=counting)
    assert len(servers()) == 1


def test_an_engine_whose_address_is_anothers_is_loaded_again(api: Api, tenant: Tenant) -> None:
    ask(tenant)
    before = engine_of(api)
    with api.database.transaction() as session:
        session.execute(update(Engine).values(token="of an engine that has ended"))
    time.sleep(LIFETIME_SECONDS)
    with pytest.raises(InternalServerError) as refused:
        ask(tenant)
    assert refused.value.status_code == 503, "a client repeats it"
    ask(tenant)
    after = engine_of(api)
    assert before is not None
    assert after is not None
    assert (after.attempt, after.address) != (before.attempt, before.address)


def test_who_goes_away_ends_the_answer(api: Api, tenant: Tenant, counting: str) -> None:
    ask(tenant, model=counting)
    engine = engine_of(api, counting)
    assert engine is not None

    def num_streams() -> int | None:
        metrics = EngineMetrics(os.getpid(), engine.address, engine.token).read()
        return metrics.num_requests

    stream = tenant.client.chat.completions.create(model=counting, messages=HELLO, stream=True)
    next(iter(stream))
    assert num_streams() == 1
    stream.close()
    wait_for(lambda: num_streams() == 0, 5, "the engine stops")


def test_an_engine_asks_for_its_token(api: Api, tenant: Tenant) -> None:
    ask(tenant)
    engine = engine_of(api)
    assert engine is not None
    assert engine.address.startswith("http://127.0.0.1:")
    answer = httpx.post(f"{engine.address}/v1/chat/completions", json={"messages": HELLO})
    assert answer.status_code == 401


def test_a_worker_that_falls_silent_is_replaced(api: Api, tenant: Tenant) -> None:
    ask(tenant)
    before = engine_of(api)
    assert before is not None
    with api.database.transaction() as session:
        # The lease of a worker that is gone, and will not renew it.
        session.execute(update(Engine).values(owner="gone", attempt=Engine.attempt + 1))
        session.execute(update(Engine).values(lease_expires_at=before.created_at))

    def is_replaced() -> bool:
        ask(tenant)
        after = engine_of(api)
        return after is not None and after.owner != "gone" and after.token != before.token

    wait_for(is_replaced, what="another engine, once the old one's address is looked up again")
    wait_for(lambda: len(programs(api)) == 1, what="the fenced-out engine ends")


def test_a_failure_is_told_and_the_next_question_tries_again(api: Api, tenant: Tenant) -> None:
    with api.database.transaction() as session:
        session.add(Model(id="acme/empty", config={}, bytes=0))
    with pytest.raises(BadRequestError) as raised:
        ask(tenant, model="acme/empty")
    assert raised.value.code == "engine_not_available"
    with pytest.raises(BadRequestError):
        ask(tenant, model="acme/empty")
    engine = engine_of(api, "acme/empty")
    assert engine is not None
    assert engine.attempt == 2


def test_where_vllm_is_installed_it_answers(
    api: Api, tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for models that have no GGUF."""
    rope = {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    scaled = TINY_CONFIG | {"model_type": "llama"} | rope
    with api.database.transaction() as session:
        session.add(Model(id="acme/scaled", config=scaled, bytes=0))
    with pytest.raises(BadRequestError) as raised:
        ask(tenant, model="acme/scaled")
    assert raised.value.code == "engine_not_available"
    assert (
        "load this model: the model's rotary embeddings are scaled, which the GGUF export does not "
        "do. vLLM on the worker, or a server at FALQON_ENGINE_URL, may; "
    ) in raised.value.message
    vllm_stand_in.install(tmp_path / "bin", monkeypatch)
    assert "--enforce-eager" in ask(tenant, model="acme/scaled")
    assert processes(vllm_stand_in.HELPER, str(api.settings.data_dir.resolve()))
    with api.database.transaction() as session:
        session.execute(delete(Engine).where(Engine.model_id == "acme/scaled"))
    folder = str(api.settings.data_dir.resolve())
    wait_for(lambda: not processes(vllm_stand_in.HELPER, folder), what="it ends without its lease")


def test_on_a_gpu_vllm_answers_for_every_model(
    api: Api, tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api.database.transaction() as session:
        session.add(Model(id="acme/plain", config=TINY_CONFIG, bytes=0))
    install_vllm(tmp_path / "bin", monkeypatch, free_mib=100)
    with pytest.raises(InternalServerError, match="100 MiB are free"):
        ask(tenant, model="acme/plain")
    install_vllm(tmp_path / "bin", monkeypatch, free_mib=80_000)
    arguments = ask(tenant, model="acme/plain")
    assert "serve" in arguments
    assert "--enforce-eager" not in arguments


def test_models_that_cannot_be_asked(tenant: Tenant, api: Api) -> None:
    other = Tenant(api)
    with api.database.transaction() as session:
        for id_, project, format in (
            ("ft:tiny:acme::1:lora", tenant.project_id, "lora"),
            ("ft:tiny:other::2", other.project_id, None),
        ):
            session.add(Model(id=id_, project_id=project, format=format, config={}, bytes=0))
    with pytest.raises(BadRequestError) as raised:
        ask(tenant, model="ft:tiny:acme::1:lora")
    assert raised.value.code == "model_not_servable"
    with pytest.raises(NotFoundError) as missing:
        ask(tenant, model="ft:tiny:other::2")
    assert missing.value.code == "model_not_found"


def test_a_checkpoint_answers_once_it_is_exported(tenant: Tenant, api: Api) -> None:
    job_id = tenant.job().id
    tenant.client.fine_tuning.jobs.cancel(job_id)
    name = tenant.add_checkpoint(job_id)
    with pytest.raises(BadRequestError, match=f"falqon models export {name} --format") as raised:
        ask(tenant, model=name)
    assert raised.value.code == "checkpoint_not_exported"
    other = Tenant(api)
    for asker, missing in ((other, name), (tenant, name.replace("step-4", "step-5"))):
        with pytest.raises(NotFoundError) as not_found:
            ask(asker, model=missing)
        assert (not_found.value.code, not_found.value.param) == ("model_not_found", "model")
    with api.database.transaction() as session:
        session.add(Model(id=name, project_id=tenant.project_id, config={}, bytes=0))
    with pytest.raises(BadRequestError) as empty:
        ask(tenant, model=name)
    assert empty.value.code == "engine_not_available", "a worker has tried it"


def test_without_the_memory_nothing_is_loaded(
    api: Api, tenant: Tenant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with api.database.transaction() as session:
        session.execute(update(Engine).values(state=EngineState.FAILED, attempt=Engine.attempt + 1))
    wait_for(lambda: not programs(api), what="the fenced-out engine ends")
    monkeypatch.setattr(host_memory, "CGROUPS", tmp_path)  # as in a container
    for name, content in (("max", "1024"), ("current", "0"), ("stat", "inactive_file 0")):
        (tmp_path / f"memory.{name}").write_text(f"{content}\n")
    with pytest.raises(InternalServerError, match="MiB of memory and 0 MiB are free") as raised:
        ask(tenant)
    assert raised.value.code == "engine_out_of_memory"
    needed = re.search(r"needs ([\d,]+) MiB", raised.value.message)
    assert needed is not None
    with api.database.read() as session:
        of_one_answer = cache_bytes(session.get_one(Model, MODEL).config)
    planned_bytes = (int(needed[1].replace(",", "")) + 1) * 2**20
    assert planned_bytes > PARALLEL_ANSWERS * of_one_answer, "each answer has a context"


def test_the_operators_own_engine(api: Api, tenant: Tenant) -> None:
    """Which here is one that another worker has loaded."""
    ask(tenant)
    engine = engine_of(api)
    assert engine is not None
    own = {"engine_url": engine.address, "engine_key": engine.token}
    relay = Api(api.settings.resolved_database_url, api.settings.data_dir, **own)
    try:
        colleague = Tenant(relay)
        assert isinstance(ask(colleague), str)
        with pytest.raises(NotFoundError):
            ask(colleague, model="nothing")
        colleague.http.close()
    finally:
        relay.stop()


def test_an_engine_that_is_not_there_is_a_refusal_to_ask_again(api: Api, tenant: Tenant) -> None:
    nowhere = {"engine_url": "http://127.0.0.1:1"}
    relay = Api(api.settings.resolved_database_url, api.settings.data_dir, **nowhere)
    try:
        colleague = Tenant(relay)
        with pytest.raises(InternalServerError) as raised:
            ask(colleague)
        assert (raised.value.status_code, raised.value.code) == (503, "engine_unavailable")
        colleague.http.close()
    finally:
        relay.stop()


def test_a_kept_engine_stays_until_it_is_unloaded(api: Api, tenant: Tenant) -> None:
    ask(tenant, max_tokens=8)
    with installation_admin(api) as admin:

        def engine_row() -> dict[str, Any] | None:
            rows = admin.get("/v1/engines").json()["data"]
            return next((row for row in rows if row["id"] == MODEL), None)

        kept = admin.post(f"/v1/engines/{MODEL}", json={"keep_loaded": True}).json()
        assert (kept["status"], kept["keep_loaded"]) == ("ready", True)
        engine = engine_of(api)
        assert engine is not None
        with api.database.transaction() as session:
            long_ago = engine.used_at - timedelta(hours=1)
            session.execute(update(Engine).values(used_at=long_ago))
        renewed = wait_for(
            lambda: (row := engine_of(api)) and row.lease_expires_at > engine.lease_expires_at
        )
        assert renewed

        def figures() -> dict[str, Any] | None:
            """Ask, and look at once: the rate is that since the engine last told it."""
            ask(tenant, max_tokens=8)
            row = engine_row()
            return row if row and row["tokens_per_second"] and row["num_requests"] == 0 else None

        row = wait_for(figures, what="its own figures")
        assert row["memory_bytes"] > 2**20
        (pid,) = programs(api)
        assert admin.delete(f"/v1/engines/{MODEL}").json()["deleted"]
        wait_for(lambda: engine_of(api) is None and not programs(api), what="it is unloaded")
        assert admin.delete(f"/v1/engines/{MODEL}").json()["error"]["code"] == "engine_not_found"
    ask(tenant)
    assert programs(api) != [pid]


def test_what_is_kept_is_left_to_another_worker(api: Api, tenant: Tenant) -> None:
    with api.database.transaction() as session:
        engine = Engine(model_id=tenant.base_model, state=EngineState.READY, keep_loaded=True)
        engine.lease_expires_at = engine.used_at = now_plus(600)
        session.add(engine)
        session.flush()
        assert claims.release(session, engine)
        claims.unload(session, engine)
        session.refresh(engine)
        assert engine.state == EngineState.WAITING
        session.delete(engine)


def test_what_nobody_asks_is_unloaded(api: Api, tenant: Tenant) -> None:
    ask(tenant)
    engine = engine_of(api)
    assert engine is not None
    with api.database.transaction() as session:
        long_ago = engine.used_at - timedelta(hours=1)
        session.execute(update(Engine).values(used_at=long_ago))
    wait_for(lambda: engine_of(api) is None and not programs(api), what="it is unloaded")
