import socket

import pytest

from app.base.settings import Settings
from worker.inference.own_address import own_address

ELSEWHERE = "192.0.2.1"  # kept for documentation: nobody answers there, and nothing is sent


@pytest.fixture
def address() -> str:
    """The one from which this machine would reach others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        try:
            datagrams.connect((ELSEWHERE, 5432))
        except OSError:
            pytest.skip("no other machine can be reached from here")
        return str(datagrams.getsockname()[0])


def test_the_own_address_faces_the_database(address: str) -> None:
    url = f"postgresql://falqon:secret@{ELSEWHERE}:5432/falqon"
    assert own_address(Settings(_env_file=None, database_url=url)) == address


def test_the_own_address_faces_redis_where_the_database_is_local(address: str) -> None:
    """As where PgBouncer runs beside the worker."""
    settings = Settings(
        _env_file=None,
        database_url="postgresql://falqon@127.0.0.1:6432/falqon",
        redis_url=f"redis://:secret@{ELSEWHERE}:6379/0",
    )
    assert own_address(settings) == address


def test_the_own_address_is_that_of_the_host_name_without_remote_services() -> None:
    try:
        expected = socket.gethostbyname(socket.gethostname())
    except OSError:
        pytest.skip("the name of this machine stands for no address")
    settings = Settings(_env_file=None, database_url="sqlite:///falqon.db")
    assert own_address(settings) == expected
