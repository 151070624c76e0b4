from collections.abc import Iterator

import pytest

from tests.support.api import Api, Tenant


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Without a worker and without Redis: both may be away, and everything here must still hold."""
    folder = tmp_path_factory.mktemp(f"api-{request.param}")
    url = f"sqlite:///{folder / 'falqon.db'}"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres").create_database("contract")
    api = Api(url, folder, max_file_bytes=2**20)
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
