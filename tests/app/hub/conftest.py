"""The tiny base model, a fine-tuned one with one of its checkpoints as a model, and an uploaded
file: of two projects.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import HfApi
from sqlalchemy import select

from app.base.settings import Settings
from app.catalogue.importer import TINY_MODEL_ID, ensure_tiny_model
from app.catalogue.naming import hub_id
from app.keys.service import add_key
from app.models import DEFAULT_PROJECT_ID, Artifact, Model, Project, Scope
from tests.support.api_process import KEY, ApiProcess

RECORDS = b"".join(
    json.dumps({"prompt": str(n), "completion": "yes"}).encode() + b"\n" for n in range(20)
)
TUNED = f"ft:{TINY_MODEL_ID}:default:first:0011aabb"
CHECKPOINT = "ckpt-step-4"


class Hub(NamedTuple):
    server: ApiProcess
    tuned: str  # as the libraries name it
    file: str  # likewise
    stranger: str  # the key of another project

    @property
    def endpoint(self) -> str:
        return f"{self.server.url}/hub"

    def api(self, key: str | None = KEY) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=key if key else False)

    def environment(self, folder: Path) -> dict[str, str]:
        """What a user would set."""
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("HF_")
        }
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_TOKEN": KEY,
            "HF_HOME": str(folder),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        return inherited | variables | {"TRANSFORMERS_VERBOSITY": "error", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="package")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    server = ApiProcess(folder, forked=True)
    ensure_tiny_model(server.database, server.storage, Settings(_env_file=None, data_dir=folder))
    changed = server.storage.put("models/notes", [b"after four steps"])
    with server.database.transaction() as session:
        tiny = session.get_one(Model, TINY_MODEL_ID)
        base = session.scalars(select(Artifact).where(Artifact.model_id == TINY_MODEL_ID)).all()
        for model_id in (TUNED, f"{TUNED}:{CHECKPOINT}"):
            session.add(
                Model(
                    id=model_id, project_id=DEFAULT_PROJECT_ID, config=tiny.config, bytes=tiny.bytes
                )
            )
            session.flush()
            for artifact in base:
                session.add(
                    Artifact(
                        model_id=model_id,
                        name=artifact.name,
                        bytes=artifact.bytes,
                        sha256=artifact.sha256,
                        storage_key=artifact.storage_key,
                    )
                )
        session.add(
            Artifact(
                model_id=f"{TUNED}:{CHECKPOINT}",
                name="extra/notes.txt",
                storage_key="models/notes",
                **changed._asdict(),
            )
        )
        session.add(Project(id="proj_other", name="other"))
        session.flush()
        stranger = add_key(session, "proj_other", "stranger", Scope.ADMIN)[1]
    upload = server.http.post(
        "/v1/files", data={"purpose": "user_data"}, files={"file": ("rows.jsonl", RECORDS)}
    ).raise_for_status()
    yield Hub(server, hub_id(TUNED), f"files/{upload.json()['id']}", stranger)
    server.close()
