"""Addresses of Postgres and Redis, and the move of a storage, as docs/stores.md has them."""

import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import make_url, text
from sqlalchemy.exc import OperationalError

from app.base import migrate
from app.base.database import DATABASE_UNAVAILABLE_ERRORS, Database
from app.base.settings import Settings
from app.base.storage import Storage, StorageUnavailable
from app.base.storage.reach import FOR_PROBES
from app.garbage import installation
from app.local.backup import run_tool
from app.models import Job, Project
from app.notifier.broker import Notifier
from tests.support.backend import ROOT, Backend
from tests.support.local_server import LocalServer, QuietHandler
from tests.support.postgres import PostgresServer
from tests.support.tls import AUTHORITY, NAME, forwarding, make_certificate
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for

PAGE = (ROOT / "docs" / "stores.md").read_text()
SECONDS = 60.0
AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
SOCKET = ".s.PGSQL.5432"
needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="no openssl on this machine"
)
# A server of the tests speaks no TLS, and what stands before it begins with it at once.
DIRECT = "&sslnegotiation=direct"


def documented(name: str, containing: str) -> str:
    """Return the address that the page gives, without its password."""
    (url,) = re.findall(rf"^    {name}=(\S*{re.escape(containing)}\S*)$", PAGE, re.M)
    return str(url).replace("falqon:…@", "falqon@").replace(":…@", "")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return make_certificate(tmp_path)


@needs_openssl
@pytest.mark.parametrize("is_trusted", [True, False], ids=["trusted", "unknown"])
def test_both_clients_of_redis_check_its_certificate(
    valkey: Valkey, certificate: Path, is_trusted: bool
) -> None:
    url = documented("REDIS_URL", "rediss://")
    if is_trusted:
        url = url.replace(AUTHORITIES, str(certificate.with_name(AUTHORITY)))
    with (
        Redis.from_url(valkey.settings.resolved_redis_url) as listener,
        listener.pubsub(ignore_subscribe_messages=True) as heard,
        forwarding(valkey.settings.valkey_socket, certificate) as port,
    ):
        heard.psubscribe("*")
        assert heard.get_message(timeout=5) is None  # it is subscribed
        url = url.replace("redis.example.com:6380", f"{NAME}:{port}")
        settings = Settings(_env_file=None, redis_url=url)
        Notifier(settings).notify(Job, "ftjob-1")
        with Redis.from_url(settings.resolved_redis_url, retry=None) as redis:
            if is_trusted:
                assert redis.ping()
            else:
                with pytest.raises(RedisError, match="CERTIFICATE_VERIFY_FAILED"):
                    redis.ping()
        message = heard.get_message(timeout=5 if is_trusted else 0.2)
        assert (message is not None) == is_trusted


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sentinel://:secret-word@a:26379/0", "'sentinel://' is not supported"),
        ("redis+cluster://:secret-word@a:6379", "'redis+cluster://' is not supported"),
        ("rediss://:secret-word@a:6380/0", "rediss:// needs the parameter ssl_cert_reqs"),
    ],
)
def test_an_address_of_redis_that_cannot_work_is_refused_by_every_command(
    url: str, words: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", "api", "--port", "0"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "REDIS_URL": url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"REDIS_URL: {words}" in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret-word" not in done.stderr


@needs_openssl
@pytest.mark.skipif(psycopg.pq.version() < 170_000, reason="libpq is older than 17")
def test_postgres_must_show_a_certificate_that_is_trusted(
    postgres: PostgresServer, certificate: Path
) -> None:
    url = documented("DATABASE_URL", "sslmode=verify-full").replace("/falqon?", "/postgres?")
    with forwarding(postgres.folder / SOCKET, certificate, ["postgresql"]) as port:
        url = url.replace("db.example.com", f"{NAME}:{port}") + DIRECT
        authority = str(certificate.with_name(AUTHORITY))
        trusting = Database(url.replace(AUTHORITIES, quote(authority, safe="")))
        with trusting.read() as session:
            assert session.scalar(text("SELECT current_user")) == "falqon"
        trusting.dispose()
        doubting = Database(url)
        with pytest.raises(OperationalError, match="certificate verify failed"):
            doubting.read().__enter__().scalar(text("SELECT 1"))
        doubting.dispose()


class EmptyStore(QuietHandler):
    def do_GET(self) -> None:
        self.send(404, b"<Error><Code>NoSuchKey</Code></Error>")


@needs_openssl
def test_the_object_store_must_show_a_certificate_that_is_trusted(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    server = LocalServer(EmptyStore, context)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://{NAME}:{server.port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.setenv(name, "a")
    with pytest.raises(StorageUnavailable):
        Storage("s3://bucket/prefix", FOR_PROBES).read("key")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_name(AUTHORITY)))
    assert Storage("s3://bucket/prefix", FOR_PROBES).read("key") is None
    server.close()


def test_of_several_postgres_servers_the_one_that_takes_writes_is_used(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = documented("DATABASE_URL", "target_session_attrs")
    with forwarding(postgres.folder / SOCKET) as port:
        url = url.replace("/falqon?", "/postgres?").replace(
            "host=db1.example.com,db2.example.com", f"host=127.0.0.1,127.0.0.1&port=1,{port}"
        )
        database = Database(url)
        with database.read() as session:
            assert session.scalar(text("SELECT 1")) == 1
        database.dispose()
        monkeypatch.setenv("PATH", str(postgres.programs))
        dumps = tmp_path / "by-backup", tmp_path / "by-hand"
        run_tool("pg_dump", make_url(url), "--format=custom", f"--file={dumps[0]}")
        dumps[1].write_bytes(postgres.run_tool("pg_dump", "--format=custom", f"--dbname={url}"))
        assert all(dump.read_bytes().startswith(b"PGDMP") for dump in dumps)


def test_a_promoted_standby_takes_over(short_tmp: Path) -> None:
    primary = PostgresServer(short_tmp / "primary")
    standby = PostgresServer(short_tmp / "standby", copy_of=primary)
    url = documented("DATABASE_URL", "target_session_attrs").replace("/falqon?", "/postgres?")
    hosts = f"host={primary.folder},{standby.folder}"
    database = Database(url.replace("host=db1.example.com,db2.example.com", hosts))
    migrate.upgrade(database)

    def is_added(name: str) -> bool:
        try:
            with database.transaction() as session:
                session.add(Project(id=name, name=name))
        except DATABASE_UNAVAILABLE_ERRORS:
            return False
        return True

    def projects_of_standby() -> list[str]:
        with psycopg.connect(standby.url) as connection:
            return [row[0] for row in connection.execute("SELECT id FROM projects ORDER BY id")]

    assert is_added("before")
    wait_for(lambda: "before" in projects_of_standby(), SECONDS, "the standby has the row")
    primary.stop(signal.SIGQUIT)
    assert not is_added("meanwhile")
    with psycopg.connect(standby.url, autocommit=True) as connection:
        connection.execute("SELECT pg_promote()")
    wait_for(lambda: is_added("after"), SECONDS, "a row is written")
    projects = projects_of_standby()
    assert {"before", "after"} <= set(projects)
    assert "meanwhile" not in projects
    database.dispose()
    standby.stop(signal.SIGQUIT)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_storage_is_moved(tmp_path: Path, database: Database, database_url: str) -> None:
    (script,) = re.findall(r"^```sh\n(cp --archive.*?)^```", PAGE, re.M | re.S)
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    backend = Backend(tmp_path / "data", database, database_url, old.as_uri())
    backend.add_job()
    installation.advance(database, backend.storage)
    backend.close()
    objects = contents_of(old)
    assert "installation-generation" in objects
    # The first copy, while the service ran, has an object that has changed since.
    shutil.copytree(old, new, dirs_exist_ok=True)
    generation = new / "installation-generation"
    generation.write_text("0")
    os.utime(generation, (0, 0))
    next(path for path in new.rglob("*") if path.is_file() and path != generation).unlink()
    variables = {
        "DATABASE_URL": database_url,
        "FALQON_DATA_DIR": str(tmp_path / "data"),
        "NEW": str(new),
        "OLD": str(old),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is held back" in done.stdout
    moved = contents_of(new)
    assert {name: moved[name] for name in objects} == objects
    installation.refuse_mismatch(database, Storage(new.as_uri()))


def contents_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
