from collections.abc import Iterator
from ipaddress import ip_network

import httpx
import pytest

from tests.support.api import Api, Tenant
from tests.support.pages import sign_in


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("web")
    api = Api(
        f"sqlite:///{folder / 'falqon.db'}",
        folder,
        max_file_bytes=2**20,
        webhook_networks=[ip_network("127.0.0.0/8")],
    )
    yield api
    api.stop()


@pytest.fixture
def browser(api: Api, tenant: Tenant) -> Iterator[httpx.Client]:
    """Signed in."""
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False, timeout=20) as client:
        sign_in(client, tenant)
        yield client
