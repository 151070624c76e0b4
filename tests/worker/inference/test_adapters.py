"""Adapters as models of their own: each answers as itself, over one copy of its base."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from sqlalchemy import func, select

from app.catalogue.importer import ensure_tiny_model
from app.models import Engine, EngineState, Model
from falqon_core.contract.model_folder import read_config
from falqon_core.export.gguf import write_gguf, write_gguf_adapter_file
from falqon_core.importers.importer import import_model
from tests.support.api import Api, Tenant
from tests.support.backend import processes
from tests.support.engines import engine_worker
from tests.support.waiting import wait_for

TINY_MODEL = "falqon-tiny"
NUM_ADAPTERS = 6
RANK = 4
TEXT = "Tell me about the sea."
QUESTION = [{"role": "user", "content": TEXT}]
NUM_TOKENS = 6
PROGRAM = "worker.inference.llama_cpp"
ASK_LLAMA_CPP = Path(__file__).parents[2] / "falqon_core/export/ask_llama_cpp.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "model"
    import_model("builtin:falqon-tiny", folder)
    write_gguf(folder, folder.parent, "base")
    return folder


@pytest.fixture(scope="module")
def adapters(base: Path) -> list[Path]:
    """Random ones, strong enough that each answers in its own way."""
    linear = "model.layers.1.mlp.down_proj"
    config = read_config(base)
    shape = (config["hidden_size"], config["intermediate_size"])
    paths = []
    for seed in range(NUM_ADAPTERS):
        torch.manual_seed(seed)
        factors = {linear: (torch.randn(RANK, shape[1]), torch.randn(shape[0], RANK))}
        paths.append(base.parent / f"{seed}.gguf")
        write_gguf_adapter_file(paths[-1], f"adapter {seed}", config, RANK, factors)
    return paths


@pytest.fixture(scope="module")
def expected(base: Path, adapters: list[Path]) -> list[str]:
    """What llama.cpp answers with each adapter in a process of its own."""

    def ask(adapter: Path) -> str:
        arguments = [base.parent / "model.gguf", json.dumps(QUESTION), NUM_TOKENS, adapter]
        command = [sys.executable, ASK_LLAMA_CPP, *arguments]
        done = subprocess.run(list(map(str, command)), capture_output=True, check=True, timeout=60)
        return str(json.loads(done.stdout))

    answers = list(map(ask, adapters))
    assert len(set(answers)) == NUM_ADAPTERS
    return answers


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    url = f"sqlite:///{tmp_path / 'falqon.db'}"
    api = Api(url, tmp_path, engine_wait=timedelta(seconds=60))
    ensure_tiny_model(api.database, api.storage, api.settings)
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
    api.stop()


def add(tenant: Tenant, adapters: list[Path]) -> list[str]:
    """As the exports of jobs do."""
    names = [f"ft:{TINY_MODEL}:acme::{index}:gguf_lora" for index in range(len(adapters))]
    with tenant.api.database.transaction() as session:
        config = session.get_one(Model, TINY_MODEL).config
        for name in names:
            values = {"base_model_id": TINY_MODEL, "format": "gguf_lora", "config": config}
            session.add(Model(id=name, project_id=tenant.project_id, bytes=1, **values))
    for name, path in zip(names, adapters, strict=True):
        tenant.store_artifacts(name, {"adapter.gguf": path.read_bytes()})
    return names


def ask(tenant: Tenant, model: str) -> str:
    answer = tenant.client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": TEXT}],
        max_tokens=NUM_TOKENS,
        temperature=0,
    )
    return answer.choices[0].message.content or ""


def test_each_adapter_answers_as_itself_over_one_base(
    tenant: Tenant, adapters: list[Path], expected: list[str]
) -> None:
    names = add(tenant, adapters)
    with engine_worker(tenant.api), ThreadPoolExecutor(NUM_ADAPTERS) as pool:
        for _ in range(2):
            assert list(pool.map(lambda name: ask(tenant, name), names)) == expected
        programs = processes(PROGRAM, str(tenant.api.settings.work_dir))
        assert len(programs) == NUM_ADAPTERS
        assert len({_mapped_model(program) for program in programs}) == 1
        os.kill(programs[0], signal.SIGKILL)
        wait_for(lambda: _num_ready(tenant) < NUM_ADAPTERS, 20, "its worker has noticed")
        assert list(pool.map(lambda name: ask(tenant, name), names)) == expected


def _num_ready(tenant: Tenant) -> int:
    with tenant.api.database.read() as session:
        statement = select(func.count()).where(Engine.state == EngineState.READY)
        return session.scalars(statement).one()


def _mapped_model(pid: int) -> str:
    """Return the inode of the GGUF that a process has mapped."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return next(line.split()[4] for line in lines if line.endswith("model.gguf"))


def test_an_adapter_without_its_base_says_so(tenant: Tenant, adapters: list[Path]) -> None:
    (name,) = add(tenant, adapters[:1])
    with tenant.api.database.transaction() as session:
        session.get_one(Model, name).base_model_id = "gone"
    with engine_worker(tenant.api):
        body = {"model": name, "messages": QUESTION, "max_tokens": 1}
        answer = tenant.http.post("/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code >= 400
    assert "The model 'gone' has been deleted" in answer.json()["error"]["message"]
