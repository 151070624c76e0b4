"""A template that never ends, such as the files of a trained model may hold: no engine gets it."""

from pathlib import Path

from sqlalchemy import select

from app.catalogue.importer import add_folder
from app.models import Artifact
from tests.support.api import Api, Tenant
from tests.support.backend import processes

BASE = "falqon-tiny"
ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{{ messages }}"
)


def add_model(api: Api, folder: Path, model_id: str, template: str) -> None:
    with api.database.read() as session:
        files = session.scalars(select(Artifact).where(Artifact.model_id == BASE)).all()
    for file in files:
        (folder / file.name).write_bytes(api.storage.read(file.storage_key) or b"")
    (folder / "chat_template.jinja").write_text(template)
    add_folder(api.database, api.storage, model_id, folder)


def test_it_is_refused_before_an_engine_starts(api: Api, tenant: Tenant, tmp_path: Path) -> None:
    model_id = "acme/endless"
    add_model(api, tmp_path, model_id, ENDLESS)
    question = {"model": model_id, "prompt": "One"}  # an engine renders the template as it starts
    answer = tenant.http.post("/v1/completions", json=question, timeout=60)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("chat_template_refused", "model")
    assert "needs more than 2 seconds" in error["message"]
    assert not processes("worker.inference.llama_cpp", model_id)
