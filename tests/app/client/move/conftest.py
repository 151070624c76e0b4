"""`falqon move openai`, from an account in the part of OpenAI to the real API, without a worker."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from tests.support.api import Api, Tenant
from tests.support.openai_account import KEY, OpenAiAccount

BASE = "local/base"
ALIASES = {"gpt-4o-mini-2024-07-18": BASE, "gpt-4o-mini": BASE}
MAX_FILE_BYTES = 2**15  # so that a larger one, which goes up in parts, is still a small one
Move = Callable[..., Result]


@pytest.fixture(scope="package")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("move")
    api = Api(
        f"sqlite:///{folder}/move.db",
        folder,
        model_aliases=ALIASES,
        max_file_bytes=MAX_FILE_BYTES,
        upstream_url="http://127.0.0.1:1",
    )
    Tenant(api).add_model(BASE, project_id=None)
    yield api
    api.stop()


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()


@pytest.fixture
def account() -> Iterator[OpenAiAccount]:
    with OpenAiAccount() as account:
        yield account


@pytest.fixture
def environment(tenant: Tenant) -> dict[str, str]:
    return {
        "FALQON_BASE_URL": tenant.api.url,
        "FALQON_API_KEY": tenant.key,
        "OPENAI_API_KEY": KEY,
        # what somebody has set who uses the service already; the account's key must not go there
        "OPENAI_BASE_URL": "http://127.0.0.1:1",
    }


@pytest.fixture
def move(
    account: OpenAiAccount,
    environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Move:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, **variables: str) -> Result:
        return CliRunner().invoke(
            app,
            ["move", "openai", "--from-url", account.url, *arguments],
            env=environment | variables,
        )

    return run
