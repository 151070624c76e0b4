from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app.catalogue.importer import ensure_tiny_model
from tests.support.api import Api, Tenant
from tests.support.engines import engine_worker


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """An API whose one base model is loaded when somebody asks it."""
    folder: Path = tmp_path_factory.mktemp("inference")
    api = Api(
        f"sqlite:///{folder / 'falqon.db'}",
        folder,
        engine_wait=timedelta(seconds=60),
        model_aliases={"gpt-old": "falqon-tiny"},
    )
    ensure_tiny_model(api.database, api.storage, api.settings)
    with engine_worker(api):
        _load_model(api)
        yield api
    api.stop()


def _load_model(api: Api) -> None:
    """Ask once with more patience than the clients of tests have."""
    first = Tenant(api)
    question = {"model": "falqon-tiny", "prompt": "One", "max_tokens": 1}
    assert first.http.post("/v1/completions", json=question, timeout=60).status_code == 200
    first.http.close()


@pytest.fixture(scope="package")
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
