"""An adapter that a server of the operator's own does not have is loaded there when it is asked:
from this service's hub, as vLLM loads what `lora_path` names.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from huggingface_hub import snapshot_download
from sqlalchemy import update

from app.models import Model
from falqon_core.estimate.prices import default_price
from tests.support.api import Api, Tenant
from tests.support.local_server import QuietHandler, serving_by
from worker.context import WorkerContext
from worker.evaluation.asking import Asker, Question
from worker.evaluation.charge import Charge
from worker.evaluation.rows import CHAT_PATH

BASE, MERGED = "acme/base", "ft:base:acme:first:0011aabb"
ADAPTER = f"{MERGED}:lora"
FILES = {"adapter_config.json": b'{"r": 4}', "adapter_model.safetensors": b"weights"}
QUESTION = {"messages": [{"role": "user", "content": "Hello"}]}


class Vllm(QuietHandler):
    """What vLLM does with runtime updates allowed; it has a base, and forgets adapters when it is
    restarted.
    """

    adapters: ClassVar[dict[str, str]] = {}  # Hash of the weights by name.
    loads: ClassVar[list[str]] = []
    hub: ClassVar[dict[str, str]] = {}  # Endpoint and token.
    takes_adapters: ClassVar[bool] = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v1/load_lora_adapter" and self.takes_adapters:
            return self._load(body["lora_name"], body["lora_path"])
        if self.path != "/v1/chat/completions" or body["model"] not in {BASE, *self.adapters}:
            return self._refuse(404, f"The model `{body.get('model')}` does not exist.")
        message = {"role": "assistant", "content": self.adapters.get(body["model"], "base")}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "1", "object": "chat.completion", "created": 1, "choices": [choice]}
        return self.send(200, json.dumps(answer | {"model": body["model"]}).encode())

    def _load(self, name: str, path: str) -> None:
        self.loads.append(name)
        if name in self.adapters:
            return self._refuse(400, "it has already been loaded")
        folder = Path(snapshot_download(path, **self.hub))
        weights = (folder / "adapter_model.safetensors").read_bytes()
        self.adapters[name] = hashlib.sha256(weights).hexdigest()
        return self.send(200, b"Success")

    def _refuse(self, status: int, message: str) -> None:
        self.send(status, json.dumps({"error": {"message": message}}).encode())


@pytest.fixture
def tenant(tmp_path: Path) -> Iterator[Tenant]:
    with serving_by(Vllm) as url:
        api = Api(f"sqlite:///{tmp_path}/falqon.db", tmp_path, engine_urls={"*:lora": url})
        tenant = Tenant(api)
        tenant.add_model(BASE, project_id=None)
        for model_id in (MERGED, ADAPTER):
            tenant.add_model(model_id, project_id=tenant.project_id, base=BASE)
        with api.database.transaction() as session:
            session.execute(update(Model).where(Model.id == ADAPTER).values(format="lora"))
        tenant.store_artifacts(ADAPTER, FILES)
        Vllm.adapters.clear()
        Vllm.loads.clear()
        hub = {"endpoint": f"{api.url}/hub", "token": tenant.key, "cache_dir": f"{tmp_path}/hub"}
        Vllm.hub, Vllm.takes_adapters = hub, True
        yield tenant
        tenant.http.close()
        api.stop()


def ask(tenant: Tenant, model: str = ADAPTER) -> httpx.Response:
    return tenant.http.post("/v1/chat/completions", json=QUESTION | {"model": model})


def content_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_an_adapter_is_loaded_once_and_again_after_a_restart(tenant: Tenant) -> None:
    weights = hashlib.sha256(FILES["adapter_model.safetensors"]).hexdigest()
    assert content_of(ask(tenant)) == content_of(ask(tenant)) == weights
    assert Vllm.loads == [ADAPTER]
    Vllm.adapters.clear()
    assert content_of(ask(tenant)) == weights
    assert Vllm.loads == [ADAPTER] * 2


@pytest.mark.parametrize("is_judge", [False, True], ids=["evaluated", "judge"])
def test_an_evaluation_has_an_adapter_loaded_as_well(tenant: Tenant, is_judge: bool) -> None:
    api = tenant.api
    parts = (api.settings, api.database, api.storage, "evaluates", threading.Event())
    charge = Charge(0.0, Decimal(0), 1, default_price("cpu"))
    asker = Asker(WorkerContext(*parts), tenant.project_id, None, lambda: None, charge)
    question = Question(CHAT_PATH, json.dumps(QUESTION | {"model": ADAPTER}).encode())
    weights = hashlib.sha256(FILES["adapter_model.safetensors"]).hexdigest()
    assert asker.ask(ADAPTER, [question], is_judge=is_judge) == [weights]
    assert asker.ask(ADAPTER, [question, question], is_judge=is_judge) == [weights] * 2
    assert Vllm.loads == [ADAPTER]


def test_a_server_that_loads_none_says_that_it_has_none(tenant: Tenant) -> None:
    Vllm.takes_adapters = False
    refused = ask(tenant).json()["error"]
    assert refused["code"] == "model_not_loaded"
    assert "does not exist" in refused["message"]


def test_only_its_project_can_have_an_adapter_loaded(tenant: Tenant) -> None:
    other = Tenant(tenant.api)
    assert ask(other).json()["error"]["code"] == "model_not_found"
    assert Vllm.loads == []
    other.http.close()
