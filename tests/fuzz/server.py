from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.api import Api


@contextmanager
def fuzzed_api(database_url: str, folder: Path) -> Iterator[Api]:
    """Its webhooks may reach this machine, so that nothing that is made up leaves it."""
    folder.mkdir(exist_ok=True)
    api = Api(database_url, folder, max_file_bytes=2**20, webhook_networks=["127.0.0.0/8"])
    try:
        yield api
    finally:
        api.stop()
