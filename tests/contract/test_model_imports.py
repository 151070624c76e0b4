"""Base models that administrators add and delete through the API."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.models import Artifact, Model, Scope
from falqon_core.importers.tiny import build_tiny
from tests.falqon_core.importers.test_gguf import vocabulary_of, write_gguf
from tests.support.api import Api, Tenant, installation_admin
from tests.support.backend import FAKE_TRAINER
from tests.support.source_server import SourceServer, serving_sources
from worker.context import WorkerContext
from worker.operations.model_import import ModelImportHandler

TINY = "builtin:falqon-tiny"


@pytest.fixture(scope="module")
def server() -> Iterator[SourceServer]:
    with serving_sources() as server:
        yield server


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, server: SourceServer) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("model-imports")
    api = Api(
        f"sqlite:///{folder / 'falqon.db'}",
        folder,
        webhook_networks=["127.0.0.0/8"],
        hub_endpoint=server.url,
        trainer_command=FAKE_TRAINER,
    )
    yield api
    api.stop()


@pytest.fixture
def admin(api: Api, tenant: Tenant) -> Iterator[httpx.Client]:
    with installation_admin(api) as client:
        yield client


def imported(api: Api, admin: httpx.Client, model_id: str, source: str) -> Any:
    answer = admin.post("/v1/models", json={"id": model_id, "source": source})
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"] == "in_progress"
    context = WorkerContext(api.settings, api.database, api.storage, "w", threading.Event())
    ModelImportHandler(context).poll()
    return admin.get(f"/v1/model_imports/{answer.json()['id']}").json()


def test_a_model_is_added_deleted_and_added_again(
    api: Api, admin: httpx.Client, tenant: Tenant
) -> None:
    done = imported(api, admin, "acme/tiny", TINY)
    assert (done["status"], done["model"], done["source"]) == ("completed", "acme/tiny", TINY)
    assert tenant.client.models.retrieve("acme/tiny").owned_by == "system"
    with api.database.read() as session:
        assert done["bytes"] == session.get_one(Model, "acme/tiny").bytes
        before = session.query(Artifact).filter_by(model_id="acme/tiny").count()
    again = admin.post("/v1/models", json={"id": "acme/tiny", "source": TINY})
    assert (again.status_code, again.json()["error"]["code"]) == (400, "model_exists")
    job = tenant.job(model="acme/tiny")
    in_use = admin.delete("/v1/models/acme/tiny")
    assert (in_use.status_code, in_use.json()["error"]["code"]) == (400, "model_in_use")
    tenant.client.fine_tuning.jobs.cancel(job.id)
    assert admin.delete("/v1/models/acme/tiny").json()["deleted"]
    assert tenant.http.get("/v1/models/acme/tiny").status_code == 404
    assert imported(api, admin, "acme/tiny", TINY)["status"] == "completed"
    assert tenant.http.get("/v1/models/acme/tiny").status_code == 200
    with api.database.read() as session:
        assert session.query(Artifact).filter_by(model_id="acme/tiny").count() == before
    assert admin.get("/v1/model_imports").json()["data"][0]["model"] == "acme/tiny"


def test_only_who_administers_the_service_deletes_a_base_model(tenant: Tenant) -> None:
    key = tenant.new_key(Scope.ADMIN)
    headers = {"authorization": f"Bearer {key}"}
    answer = tenant.http.delete(f"/v1/models/{tenant.base_model}", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "model_not_deletable")


def test_a_model_comes_from_the_hub(
    api: Api, admin: httpx.Client, server: SourceServer, tmp_path: Path
) -> None:
    build_tiny(tmp_path / "tiny")
    server.models["acme/base"] = {
        path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()
    }
    other_layouts = ("consolidated.safetensors", "onnx/model.safetensors")
    server.models["acme/base"] |= dict.fromkeys(other_layouts, b"for other programs")
    done = imported(api, admin, "base", "hf://acme/base")
    assert (done["status"], done["conversions"]) == ("completed", []), done
    paths = [path for path, _ in server.requests]
    assert any(path.endswith("/model.safetensors") for path in paths)
    assert not any(path.endswith(other_layouts) for path in paths)


def test_an_import_says_what_was_converted(
    api: Api, admin: httpx.Client, server: SourceServer, tmp_path: Path
) -> None:
    build_tiny(tmp_path / "tiny")
    path = write_gguf(tmp_path / "model.gguf", "llama", vocabulary_of(tmp_path / "tiny"))
    server.files["/a/tiny.gguf"] = path.read_bytes()
    done = imported(api, admin, "from-gguf", f"{server.url}/a/tiny.gguf")
    assert done["status"] == "completed", done
    assert done["conversions"] == ["The weights were GGUF, F32, Q8_0, and are bf16 now."]
    listed = admin.get("/v1/model_imports").json()["data"]
    assert next(item for item in listed if item["id"] == done["id"]) == done


def test_an_import_of_a_missing_file_fails(
    api: Api, admin: httpx.Client, server: SourceServer
) -> None:
    failed = imported(api, admin, "broken", f"{server.url}/a/model.gguf?signature=secret")
    assert (failed["status"], failed["error"]["code"]) == ("failed", "source_not_found")
    assert failed["source"] == f"{server.url}/a/model.gguf"
    assert server.requests[-1][0] == "/a/model.gguf?signature=secret"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"source": "/etc"}, "source"),
        ({"source": "hf://../x"}, "source"),
        ({"source": "https://example.com/model.bin"}, "source"),
        ({"source": "https://10.0.0.1/model.gguf"}, "source"),
        ({"source": TINY, "id": "../x"}, "id"),
        ({"source": TINY, "id": "a/b/c"}, "id"),
    ],
)
def test_a_bad_model_import_is_refused(
    admin: httpx.Client, body: dict[str, str], param: str
) -> None:
    answer = admin.post("/v1/models", json={"id": "acme/new"} | body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
