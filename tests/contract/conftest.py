from collections.abc import Iterator

import pytest

from tests.support.api import Api, Tenant
from tests.support.databases import choose_databases, create_database
from tests.support.fixtures import receiver as receiver
from tests.support.fixtures import store as store
from tests.support.fixtures import tenant as tenant


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    has_its_own = hasattr(metafunc.module, "api")
    if not has_its_own:
        choose_databases(metafunc, "api")


@pytest.fixture(scope="package")
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """Without a worker and without Redis: both may be away, and everything here must still hold.

    It ends with this folder: its reconciler would go on to notify nobody of the jobs that are left,
    and its warnings would stand in the logs that later tests of the process read.
    """
    folder = tmp_path_factory.mktemp(f"api-{request.param}")
    url = create_database(request, folder)
    api = Api(url, folder, max_file_bytes=2**20)
    yield api
    api.stop()


@pytest.fixture
def stranger(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()
