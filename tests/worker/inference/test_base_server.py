"""One vLLM for a base and the adapters on it, with a stand-in for vLLM itself."""

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from sqlalchemy import delete

from app.catalogue.importer import ensure_tiny_model
from app.models import Artifact, Engine, Export, Model, OperationStatus
from falqon_core.contract.certificate import HeldOut
from falqon_core.contract.model_folder import read_config
from falqon_core.contract.rounding import Rounding
from falqon_core.export.gguf import write_gguf_adapter_file
from falqon_core.export.peft import convert_gguf_adapter
from falqon_core.importers.importer import import_model
from tests.support import vllm_stand_in
from tests.support.api import Api, Tenant
from tests.support.backend import processes
from tests.support.engines import engine_worker
from tests.support.waiting import wait_for
from worker.inference import base_server, engine_host

BASE = "falqon-tiny"
LINEAR = "model.layers.1.self_attn.q_proj"
BOUND = Rounding(
    loss=1.5,
    loss_fp8=1.25,
    same_tokens=0.9,
    held_out=HeldOut(source="validation", num_rows=2, num_tokens=8),
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    import_model("builtin:falqon-tiny", folder)
    return folder


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """With a worker that has vLLM and a GPU."""
    vllm_stand_in.install(tmp_path / "bin", monkeypatch)
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 80000\n")
    smi.chmod(0o755)
    url = f"sqlite:///{tmp_path / 'falqon.db'}"
    api = Api(url, tmp_path / "data", engine_wait=timedelta(seconds=60))
    ensure_tiny_model(api.database, api.storage, api.settings)
    with engine_worker(api):
        yield api
    api.stop()


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()


@pytest.fixture
def stranger(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()


def add(tenant: Tenant, base: Path, number: int, rank: int = 4) -> tuple[str, str]:
    """Return an adapter of its own, and what the stand-in answers with it."""
    folder = base.parent / f"{number}-{rank}"
    folder.mkdir(exist_ok=True)
    config = read_config(base)
    torch.manual_seed(number)
    size = config["hidden_size"]
    factors = {LINEAR: (torch.randn(rank, size), torch.randn(size, rank))}
    write_gguf_adapter_file(folder / "adapter.gguf", f"adapter {number}", config, rank, factors)
    name = f"ft:{BASE}:acme::{number}:gguf_lora"
    with tenant.api.database.transaction() as session:
        values = {"base_model_id": BASE, "format": "gguf_lora", "config": config, "bytes": 1}
        session.add(Model(id=name, project_id=tenant.project_id, **values))
    tenant.store_artifacts(name, {"adapter.gguf": (folder / "adapter.gguf").read_bytes()})
    convert_gguf_adapter(folder / "adapter.gguf", base, folder / "peft", BASE)
    content = (folder / "peft" / "adapter_model.safetensors").read_bytes()
    return name, json.dumps({name: hashlib.sha256(content).hexdigest()})


def ask(tenant: Tenant, model: str, **options: Any) -> Any:
    client = tenant.client.with_options(max_retries=0)
    messages = [{"role": "user", "content": "Hello"}]
    return client.chat.completions.create(model=model, messages=messages, **options)


def text(tenant: Tenant, model: str) -> str:
    return str(ask(tenant, model).choices[0].message.content)


def programs(api: Api) -> list[int]:
    return processes("vllm_stand_in.py", str(api.settings.data_dir.resolve()))


def test_adapters_of_two_projects_and_their_base_answer_from_one_program(
    api: Api, tenant: Tenant, stranger: Tenant, base: Path
) -> None:
    of_tenant = [add(tenant, base, number) for number in range(3)]
    of_stranger = [add(stranger, base, number) for number in (3, 4)]
    everything = [(tenant, *each) for each in of_tenant] + [
        (stranger, *each) for each in of_stranger
    ]
    expected = [answer for *_, answer in everything]
    assert len(set(expected)) == len(everything)
    with ThreadPoolExecutor(len(everything)) as pool:
        for _ in range(2):
            assert list(pool.map(lambda each: text(*each[:2]), everything)) == expected
    assert "--enable-lora" in text(tenant, BASE)
    assert len(programs(api)) == 1
    for who, others in ((tenant, of_stranger), (stranger, of_tenant)):
        for name, _ in others:
            for path in ("/v1/engines", "/v1/models"):
                assert name not in who.http.get(path).text
            with pytest.raises(Exception, match="does not exist"):
                ask(who, name)
    listed = tenant.http.get("/v1/engines").json()["data"]
    assert {engine["id"]: engine["base_model"] for engine in listed} == {
        BASE: None,
        **{name: BASE for name, _ in of_tenant},
    }
    os.kill(programs(api)[0], signal.SIGKILL)
    wait_for(lambda: not programs(api), what="it has ended")

    def answers_again() -> bool:
        return [_try(*each[:2]) for each in everything] == expected

    wait_for(answers_again, what="each is loaded again, and answers as itself")
    assert len(programs(api)) == 1


def _try(tenant: Tenant, model: str) -> str:
    try:
        return text(tenant, model)
    except Exception as error:
        return repr(error)


def test_an_adapter_comes_and_goes_beside_the_streams_of_others(
    api: Api, tenant: Tenant, base: Path
) -> None:
    (first, _), (second, expected) = add(tenant, base, 10), add(tenant, base, 11)
    text(tenant, first)
    stream = ask(tenant, first, stream=True)
    numbers = iter(stream)
    next(numbers)
    assert text(tenant, second) == expected
    with api.database.transaction() as session:
        engine = session.get_one(Engine, (second, 0))
        address, token = engine.address, engine.token
        session.get_one(Model, second).deleted_at = session.get_one(Model, first).created_at

    def is_unloaded() -> bool:
        body = {"model": second, "messages": []}
        headers = {"authorization": f"Bearer {token}"}
        answer = httpx.post(f"{address}/v1/chat/completions", json=body, headers=headers)
        return answer.status_code == 404

    wait_for(is_unloaded, what="an adapter that is deleted is taken out")
    next(numbers)
    stream.close()
    assert len(programs(api)) == 1
    with api.database.transaction() as session:
        session.execute(delete(Engine))
    wait_for(lambda: not programs(api), what="it ends with the last that answers from it")


def test_a_higher_rank_has_a_program_of_its_own_up_to_a_limit(
    api: Api, tenant: Tenant, base: Path
) -> None:
    low, high = add(tenant, base, 20), add(tenant, base, 21, rank=100)
    assert [text(tenant, name) for name, _ in (low, high)] == [low[1], high[1]]
    assert len(programs(api)) == 2
    later = add(tenant, base, 22)
    assert text(tenant, later[0]) == later[1]
    assert len(programs(api)) == 2, "a program for a high rank takes a low one"
    too_high, _ = add(tenant, base, 23, rank=513)
    with pytest.raises(Exception, match="vLLM takes 512 at most") as refused:
        text(tenant, too_high)
    assert refused.value.code == "adapter_rank_too_high"  # type: ignore[attr-defined]


def test_a_damaged_adapter_is_refused_and_others_answer(
    api: Api, tenant: Tenant, base: Path
) -> None:
    (whole, expected), (damaged, _) = add(tenant, base, 50), add(tenant, base, 51)
    with api.database.transaction() as session:
        artifact = session.get_one(Artifact, (damaged, "adapter.gguf"))
        stored = api.storage.put(f"{artifact.storage_key}.damaged", [b"GGUF and nothing else"])
        artifact.storage_key += ".damaged"
        artifact.bytes, artifact.sha256 = stored.bytes, stored.sha256
    assert text(tenant, whole) == expected
    with pytest.raises(Exception, match="cannot be read as an adapter") as refused:
        text(tenant, damaged)
    assert refused.value.code == "adapter_not_loadable"  # type: ignore[attr-defined]
    assert text(tenant, whole) == expected


def test_an_idle_adapter_makes_place_for_another(
    api: Api, tenant: Tenant, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_server, "MAX_ADAPTERS", 2)
    monkeypatch.setattr(engine_host, "UNUSED_SECONDS", -1.0)
    several = [add(tenant, base, number) for number in range(30, 33)]
    for name, expected in several:
        assert text(tenant, name) == expected
    with api.database.read() as session:
        assert session.get(Engine, (several[0][0], 0)) is None
    assert len(programs(api)) == 1


def share(tenant: Tenant, base: Path, adapter: str) -> str:
    """Return the model of a job that answers as this adapter."""
    model = adapter.removesuffix(":gguf_lora")
    with tenant.api.database.transaction() as session:
        config = read_config(base)
        values = {"base_model_id": BASE, "job_id": "ftjob-1", "config": config, "bytes": 1}
        session.add(Model(id=model, project_id=tenant.project_id, serve_as="shared", **values))
        export = {"source": model, "format": "gguf_lora", "exported_model_id": adapter}
        session.add(
            Export(
                id=f"export-{model}",
                project_id=tenant.project_id,
                job_id="ftjob-1",
                status=OperationStatus.COMPLETED,
                rounding=BOUND,
                **export,
            )
        )
    return model


def test_a_shared_model_answers_by_its_own_name(api: Api, tenant: Tenant, base: Path) -> None:
    adapter, expected = add(tenant, base, 40)
    model = share(tenant, base, adapter)
    answer = ask(tenant, model)
    assert (answer.model, answer.choices[0].message.content) == (model, expected)
    stream = ask(tenant, model, stream=True)
    assert "0" in str(next(iter(stream)).choices[0].delta.content)
    stream.close()
    shown: Any = tenant.client.models.retrieve(model)
    assert shown.shared_form["model"] == adapter
    assert shown.shared_form["bound"]["loss"] == BOUND.loss


def test_without_a_gpu_llama_cpp_answers_by_that_name(
    api: Api, tenant: Tenant, base: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin" / "nvidia-smi").unlink()
    adapter, _ = add(tenant, base, 41)
    model = share(tenant, base, adapter)
    answer = ask(tenant, model, max_tokens=4, temperature=0)
    assert answer.model == model
    events = list(ask(tenant, model, max_tokens=4, temperature=0, stream=True))
    assert {event.model for event in events} == {model}
    told = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
    assert told == answer.choices[0].message.content
    assert len(processes("worker.inference.llama_cpp", str(api.settings.data_dir.resolve()))) == 1
