"""Adapters as models of their own: each answers as itself, over one copy of its base."""

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import openai
import pytest
import torch
from sqlalchemy import func, select

from app.catalogue.importer import ensure_tiny_model
from app.models import Engine, EngineState, Model
from falqon_core.contract.messages import ExitCode
from falqon_core.export.formats import write_format
from falqon_core.export.gguf import write_gguf_adapter_file
from tests.falqon_core.train import trainings
from tests.support.adapters import add_adapter, tiny_gguf, write_variant
from tests.support.api import Api, Tenant, jsonl
from tests.support.backend import processes
from tests.support.engines import engine_worker
from tests.support.llama_cpp import answers_of
from tests.support.waiting import wait_for

TINY_MODEL = "falqon-tiny"
NUM_ADAPTERS = 20
MOST_SCALE = 8.0
TEXT = "Tell me about the sea."
QUESTION = [{"role": "user", "content": TEXT}]
NUM_TOKENS = 8
PROGRAM = "worker.inference.llama_cpp"
STEPS = 10
RECIPE = {"max_steps": STEPS, "checkpoint_every": STEPS, "learning_rate": 0.005, "rank": 8}
RECIPE |= {"max_seq_length": 64, "batch_size": 4, "num_epochs": 10}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF, with the files of the model beside it."""
    return tiny_gguf(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def adapters(base: Path) -> list[Path]:
    """One of a training, and others like it that are as strong as those of longer ones."""
    folder = base.parent.parent
    rows = folder / "rows.jsonl"
    rows.write_bytes(jsonl())
    config = trainings.config_of(base.parent, rows, RECIPE)
    assert trainings.train(config, folder / "training")[0] == ExitCode.DONE
    checkpoint = folder / "training" / "checkpoints" / str(STEPS)
    shutil.copyfile(base.parent / "config.json", checkpoint / "config.json")
    write_format("gguf_lora", checkpoint, folder / "trained", "trained", TINY_MODEL)
    paths = [folder / "trained" / "adapter.gguf"]
    for seed in range(1, NUM_ADAPTERS):
        paths.append(folder / f"{seed}.gguf")
        write_variant(paths[0], paths[-1], seed, MOST_SCALE)
    return paths


@pytest.fixture(scope="module")
def expected(base: Path, adapters: list[Path]) -> list[str]:
    """What llama.cpp answers with each adapter alone."""
    answers = answers_of(base, adapters, QUESTION, NUM_TOKENS)
    assert len(set(answers)) == NUM_ADAPTERS
    return answers


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    url = f"sqlite:///{tmp_path / 'falqon.db'}"
    api = Api(url, tmp_path, engine_wait=timedelta(seconds=120))
    ensure_tiny_model(api.database, api.storage, api.settings)
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
    api.stop()


def add(tenant: Tenant, adapters: Sequence[Path]) -> list[str]:
    names = [f"ft:{TINY_MODEL}:acme::{index}:gguf_lora" for index in range(len(adapters))]
    where = (tenant.api.database, tenant.api.storage, tenant.project_id)
    for name, path in zip(names, adapters, strict=True):
        add_adapter(*where, name, TINY_MODEL, path)
    return names


def ask(tenant: Tenant, model: str) -> str:
    answer = tenant.client.with_options(timeout=180, max_retries=0).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": TEXT}],
        max_tokens=NUM_TOKENS,
        temperature=0,
    )
    return answer.choices[0].message.content or ""


def test_twenty_names_answer_as_themselves_over_one_base(
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
        wait_for(lambda: _num_ready(tenant) < NUM_ADAPTERS, what="its worker has noticed")
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


def _cut_off(adapter: Path) -> None:
    os.truncate(adapter, adapter.stat().st_size // 2)


def _overwrite(adapter: Path) -> None:
    adapter.write_bytes(b"no GGUF" * 100)


def _lose_a_half(adapter: Path) -> None:
    """Rename one of two matrices, so that the other has no partner."""
    adapter.write_bytes(adapter.read_bytes().replace(b"blk.0.attn_q.weight.lora_a", b"?" * 26))


def _be_of_another_base(adapter: Path) -> None:
    """Be an adapter of a model that is twice as wide."""
    config = {"model_type": "llama", "num_attention_heads": 4, "hidden_size": 128}
    factors = {"model.layers.0.mlp.down_proj": (torch.ones(4, 352), torch.ones(128, 4))}
    write_gguf_adapter_file(adapter, "another", config, 4, factors)


DAMAGES = (_cut_off, _overwrite, _lose_a_half, _be_of_another_base)


def test_adapters_that_cannot_be_loaded_say_so(
    tenant: Tenant, adapters: list[Path], expected: list[str], tmp_path: Path
) -> None:
    """Others go on."""
    damaged = [tmp_path / f"{damage.__name__}.gguf" for damage in DAMAGES]
    for path, damage in zip(damaged, DAMAGES, strict=True):
        shutil.copyfile(adapters[0], path)
        damage(path)
    sound, *names = add(tenant, [adapters[1], *damaged])
    with engine_worker(tenant.api):
        assert ask(tenant, sound) == expected[1]
        for name in names:
            body = {"model": name, "messages": QUESTION, "max_tokens": 4}
            answer = tenant.http.post("/v1/chat/completions", json=body, timeout=120)
            assert answer.status_code == 400
            error = answer.json()["error"]
            assert error["code"] == "adapter_not_loadable"
            assert "does not belong on its base: " in error["message"]
        assert ask(tenant, sound) == expected[1]


def test_an_adapter_that_is_deleted_while_it_answers(
    tenant: Tenant, adapters: list[Path], expected: list[str]
) -> None:
    """Its streams end, it is unknown from then on, and others go on."""
    other, name = add(tenant, [adapters[1], adapters[2]])
    with engine_worker(tenant.api):
        assert ask(tenant, other) == expected[1]
        assert ask(tenant, name) == expected[2]
        stream = tenant.client.chat.completions.create(
            model=name,
            messages=[{"role": "user", "content": TEXT}],
            max_tokens=100_000,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        tenant.client.models.delete(name)
        with suppress(openai.APIError):  # unless it had come to its end
            list(stream)
        wait_for(lambda: _num_ready(tenant) == 1, what="its engine has ended")
        wait_for(lambda: len(processes(PROGRAM, str(tenant.api.settings.work_dir))) == 1)
        with pytest.raises(openai.NotFoundError) as refused:
            ask(tenant, name)
        assert refused.value.code == "model_not_found"
        assert ask(tenant, other) == expected[1]
