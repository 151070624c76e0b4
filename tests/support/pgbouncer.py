"""A PgBouncer of one's own, as docs/network.md has it: few connections, each for one transaction
at a time.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.support.postgres import PostgresServer

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
START_SECONDS = 30
SETTINGS = """
[databases]
* = host={postgres} user=falqon
[pgbouncer]
listen_addr =
listen_port = 6432
unix_socket_dir = {folder}
auth_type = any
admin_users = falqon
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 2000
logfile = {folder}/log
pidfile = {folder}/pid
"""


@contextmanager
def pgbouncer(postgres: PostgresServer, parent: Path, size: int) -> Iterator[Path]:
    """Give the folder with its socket; it has at most `size` connections to each database."""
    assert PROGRAM is not None
    folder = Path(tempfile.mkdtemp(dir=parent))
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to run as root
    if user:
        shutil.chown(folder, user)
    settings = folder / "pgbouncer.ini"
    settings.write_text(SETTINGS.format(postgres=postgres.folder, folder=folder, size=size))
    process = subprocess.Popen([PROGRAM, "--quiet", settings], user=user)
    try:
        _wait_until_it_answers(url_of(folder, "postgres"))
        yield folder
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def url_of(folder: Path, database: str | None) -> str:
    """Return the address of a database, without what tells the service that it is pooled."""
    return f"postgresql://falqon@/{database}?host={folder}&port=6432"


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg.connect(url, connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
