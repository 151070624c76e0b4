"""The real API on a real port, in a thread of this process; and what a test does to it in place of
a worker.
"""

import json
import socket
import threading
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from openai import DefaultHttpxClient, OpenAI
from sqlalchemy import update
from starlette.routing import BaseRoute

from app.attempts.gateway import DirectGateway
from app.base.database import Database
from app.base.ids import new_id
from app.base.settings import Settings
from app.base.storage import Storage
from app.garbage import installation
from app.http import server
from app.jobs import claims
from app.jobs.claims import Claim
from app.keys.service import add_key
from app.main import create_app
from app.models import DEFAULT_PROJECT_ID, Artifact, Checkpoint, Job, Model, Project, Scope
from app.models.trainer_log import TrainerLog
from tests.support.checks import check_file
from tests.support.schema import migrate_database
from tests.support.waiting import wait_for

PATIENCE = 60  # seconds; the machine may be busy
NOTHING_LISTENS = "redis://127.0.0.1:1/0"
TINY_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}

# One for all: each client of its own would read the system's certificates, which takes longer than
# most tests.
_connections = DefaultHttpxClient(verify=False)


def jsonl(count: int = 12, answer: str = "four") -> bytes:
    turns = {
        "messages": [
            {"role": "user", "content": "two and two?"},
            {"role": "assistant", "content": answer},
        ]
    }
    return b"".join(json.dumps(turns).encode() + b"\n" for _ in range(count))


@cache
def _routes() -> list[BaseRoute]:
    """Return the routes of every application. FastAPI reads the signatures of all endpoints when
    the first request comes: once for all tests, not once for each application, 0.3 s.
    """
    return create_app(Settings(_env_file=None)).router.routes


class Api:
    def __init__(self, database_url: str, data_dir: Path, **options: Any) -> None:
        options = {
            "redis_url": NOTHING_LISTENS,
            "num_threads": 2,
            "engine_wait": timedelta(seconds=0.2),  # mostly there is no worker that loads a model
            "wrong_keys_per_minute": 1_000_000,
        } | options
        self.settings = Settings(
            _env_file=None, database_url=database_url, data_dir=data_dir, **options
        )
        self.database = Database(self.settings.resolved_database_url)
        self.storage = Storage(self.settings.resolved_storage_url)
        migrate_database(self.database)
        installation.mark(self.database, self.storage)
        self.app = create_app(self.settings)
        self.app.router.routes[:] = _routes()
        served = server.options(self.settings)
        config = uvicorn.Config(self.app, log_config=None, timeout_graceful_shutdown=2, **served)
        self._server = uvicorn.Server(config)
        # asyncio turns Nagle's algorithm off only where the protocol is spelled out; with it every
        # answer waits 40 ms.
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()
        wait_for(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()
        self.database.dispose()


def installation_admin(api: Api) -> httpx.Client:
    with api.database.transaction() as session:
        _, key = add_key(session, DEFAULT_PROJECT_ID, "installation", Scope.ADMIN)
    return httpx.Client(
        base_url=api.url, headers={"authorization": f"Bearer {key}"}, timeout=PATIENCE, verify=False
    )


class Tenant:
    """One project on an API, with a key and clients of its own."""

    def __init__(self, api: Api, scope: Scope = Scope.WRITE, project_id: str | None = None) -> None:
        """A new project, or a colleague in one that is there."""
        self.api = api
        self.project_id = project_id or new_id("proj_")
        with api.database.transaction() as session:
            if project_id is None:
                session.add(Project(id=self.project_id, name="acme"))
                session.flush()
            _, self.key = add_key(session, self.project_id, "test", scope)
        self.client = self.client_with(self.key)
        self.http = httpx.Client(
            base_url=api.url,
            headers={"authorization": f"Bearer {self.key}"},
            timeout=PATIENCE,
            verify=False,
        )
        self.base_model = new_id("base-")
        self.add_model(self.base_model, project_id=None)

    def new_key(self, scope: Scope) -> str:
        with self.api.database.transaction() as session:
            budget = Decimal(10**6) if scope is Scope.AGENT else None
            name = f"to {scope}"
            return add_key(session, self.project_id, name, scope, daily_budget_usd=budget)[1]

    def limit(self, **columns: Any) -> None:
        with self.api.database.transaction() as session:
            session.execute(update(Project).where(Project.id == self.project_id).values(**columns))

    def client_with(self, key: str) -> OpenAI:
        return OpenAI(
            base_url=f"{self.api.url}/v1", api_key=key, timeout=PATIENCE, http_client=_connections
        )

    def add_model(
        self,
        model_id: str,
        *,
        project_id: str | None,
        base: str | None = None,
        job_id: str | None = None,
    ) -> None:
        with self.api.database.transaction() as session:
            session.add(
                Model(
                    id=model_id,
                    project_id=project_id,
                    base_model_id=base,
                    job_id=job_id,
                    config=TINY_CONFIG,
                    bytes=1,
                )
            )

    def store_artifacts(self, model_id: str, contents: Mapping[str, bytes]) -> None:
        """Store the files of a model that has a row."""
        with self.api.database.transaction() as session:
            for name, content in contents.items():
                key = f"models/{model_id}/{name}"
                stored = self.api.storage.put(key, [content])
                session.add(
                    Artifact(model_id=model_id, name=name, storage_key=key, **stored._asdict())
                )

    def add_checkpoint(self, job_id: str, step: int = 4, **values: Any) -> str:
        """Return the name of a new one of the job."""
        row = {"attempt": 1, "storage_prefix": "p", "manifest_sha256": "0", "metrics": {}} | values
        with self.api.database.transaction() as session:
            session.add(Checkpoint(id=new_id("ftckpt_"), job_id=job_id, step=step, bytes=1, **row))
        newest = self.client.fine_tuning.jobs.checkpoints.list(job_id).data[0]
        return str(newest.fine_tuned_model_checkpoint)

    def upload(self, content: bytes | None = None, *, check: bool = True) -> str:
        file = self.client.files.create(
            file=("rows.jsonl", content or jsonl()), purpose="fine-tune"
        )
        if check:
            self.check(file.id)
        return file.id

    def check(self, file_id: str) -> list[str]:
        return check_file(self.api.database, self.api.storage, file_id, self.api.settings)

    def job(self, **extra: Any) -> Any:
        return self.client.fine_tuning.jobs.create(
            **{"model": self.base_model, "training_file": self.upload()} | extra
        )

    def claim(self, job_id: str) -> Claim:
        """Work off the queue until this job is ours."""

        def take() -> Claim | None:
            with self.api.database.transaction() as session:
                job = claims.claim(
                    session, owner="worker-1", device="cpu", num_devices=2, lease_seconds=600
                )
            if job is None or job.id != job_id:  # none: the API has its row for a moment
                return None
            return Claim(job.id, job.attempt, "worker-1")

        return wait_for(take)

    def store_log(self, claim: Claim, log: TrainerLog) -> None:
        """Store the log of a trainer, as a worker does."""
        api = self.api
        redis = api.app.state.services.redis
        gateway = DirectGateway(api.settings, api.database, api.storage, redis, claim.owner)
        with api.database.read() as session:
            job = session.get_one(Job, claim.job_id)
        assert gateway.store_log(job, claim, log)

    def stored(self) -> list[str]:
        """Every file that the project has in storage, unfinished ones too."""
        root = self.api.settings.data_dir / "objects" / "projects" / self.project_id
        return sorted(
            path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()
        )

    def num_rows(self, *tables: type) -> list[int]:
        with self.api.database.read() as session:
            return [session.query(table).count() for table in tables]
