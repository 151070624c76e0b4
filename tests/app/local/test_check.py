"""`falqon check` tells the good from each kind of bad, and what to do about it."""

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import Result
from typer.testing import CliRunner

from app.base import migrate
from app.base.database import Database
from app.cli import app
from app.local import check
from tests.support.object_store import ObjectStore
from tests.support.proxy import Proxy
from tests.support.valkey import Valkey

STEPS = ["write", "read", "create once", "list", "delete"]


@pytest.fixture
def good(
    store: ObjectStore,
    valkey: Valkey,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> pytest.MonkeyPatch:
    """The environment of an operator who has done everything right."""
    monkeypatch.chdir(tmp_path)
    url = database.engine.url.set(drivername=database.engine.dialect.name)
    monkeypatch.setenv("DATABASE_URL", url.render_as_string(hide_password=False))
    monkeypatch.setenv("REDIS_URL", valkey.settings.resolved_redis_url)
    monkeypatch.setenv("STORAGE_URL", f"{store.url}/objects")
    monkeypatch.setenv("FALQON_DATA_DIR", str(tmp_path))
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def run() -> Result:
    return CliRunner().invoke(app, ["check"])


def verdicts(done: Result) -> dict[str, str]:
    lines = re.findall(r"^(\w[\w: ]*?)\t(ok|WRONG)\t", done.stdout, re.M)
    return dict(lines)


def test_a_sound_installation_passes_every_check(good: pytest.MonkeyPatch) -> None:
    done = run()
    names = ["settings", "database", "clocks", "schema", "redis"]
    assert verdicts(done) == dict.fromkeys([*names, *(f"storage: {step}" for step in STEPS)], "ok")
    assert done.exit_code == 0


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
class TestBad:
    def wrong(self, part: str, advice: str) -> str:
        """Run; exactly this part is wrong, and the advice says this."""
        done = run()
        assert [name for name, verdict in verdicts(done).items() if verdict == "WRONG"] == [part], (
            done.stdout
        )
        assert done.exit_code == 1
        (line,) = [line for line in done.stdout.splitlines() if "\tWRONG\t" in line]
        assert advice in line
        return line

    def test_setting(self, good: pytest.MonkeyPatch) -> None:
        good.setenv("FALQON_POL", "PT1S")
        done = run()
        assert done.exit_code != 0
        assert "did you mean FALQON_POLL?" in str(done.exception)

    def test_prices(self, good: pytest.MonkeyPatch, tmp_path: Path) -> None:
        good.setenv("FALQON_PRICES", str(tmp_path / "none.json"))
        assert "FALQON_PRICES: " in self.wrong("settings", "Correct")

    def test_database(self, good: pytest.MonkeyPatch) -> None:
        good.setenv("DATABASE_URL", "postgresql://falqon:secret-word@127.0.0.1:1/falqon")
        assert "secret-word" not in self.wrong("database", "DATABASE_URL")

    def test_schema(self, good: pytest.MonkeyPatch, tmp_path: Path) -> None:
        good.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
        self.wrong("schema", "falqon migrate")

    def test_clocks(self, good: pytest.MonkeyPatch) -> None:
        good.setattr(check, "MAX_SKEW", -check.MAX_SKEW)
        self.wrong("clocks", "NTP")

    def test_redis(self, good: pytest.MonkeyPatch) -> None:
        good.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
        self.wrong("redis", "REDIS_URL")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("STORAGE_URL", "s3://no-such-bucket/objects"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"),
            ("AWS_ALLOW_HTTP", "false"),
        ],
    )
    def test_storage(self, good: pytest.MonkeyPatch, name: str, value: str) -> None:
        good.setenv(name, value)
        self.wrong("storage: write", "AWS_ENDPOINT_URL")

    def test_storage_of_no_kind(self, good: pytest.MonkeyPatch) -> None:
        good.setenv("STORAGE_URL", "bucket/objects")
        self.wrong("storage", "STORAGE_URL")

    def test_silent_storage(self, good: pytest.MonkeyPatch, store: ObjectStore) -> None:
        good.setattr(check, "FOR_PROBES", replace(check.FOR_PROBES, silence=check.MAX_SKEW / 60))
        store.fall_silent()
        try:
            self.wrong("storage: write", "AWS_ENDPOINT_URL")
        finally:
            store.answer_again()

    def test_a_store_that_writes_a_key_twice(
        self, good: pytest.MonkeyPatch, store: ObjectStore
    ) -> None:
        """As RADOS Gateway on its dbstore did: the header is not heard of."""
        with Proxy(urlsplit(store.endpoint).port or 0) as proxy:
            proxy.forget = b"if-none-match"
            good.setenv("AWS_ENDPOINT_URL", proxy.url)
            self.wrong("storage: create once", "If-None-Match")


def test_a_newer_schema_is_right(good: pytest.MonkeyPatch, database: Database) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    assert migrate.compare_schema(database) == "newer"
    done = run()
    assert (done.exit_code, verdicts(done)["schema"]) == (0, "ok")
