from pathlib import Path

from sqlalchemy import update

from app.auth.keys import check_secret
from app.base.database import Database, now_plus
from app.base.settings import Settings
from app.client import local
from app.client.local import LocalService
from app.keys.service import ensure_admin_key
from app.local.bootstrap import key_for_this_machine
from app.models import ApiKey, Scope
from tests.support.schema import migrate_database


def test_this_machine_keeps_its_key_until_it_is_revoked(tmp_path: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path)
    database = Database(settings.resolved_database_url)
    migrate_database(database)

    def start() -> str:
        key = key_for_this_machine(settings, ensure_admin_key(database, settings))
        local.write(tmp_path, LocalService("http://127.0.0.1:8000", key))
        with database.read() as session:
            assert check_secret(session, key).scope is Scope.ADMIN
        return key

    def num_keys() -> int:
        with database.read() as session:
            return session.query(ApiKey).count()

    first = start()
    assert num_keys() == 1, "the generated key is the one"
    assert start() == first
    with database.transaction() as session:
        session.execute(update(ApiKey).values(revoked_at=now_plus()))
    second = start()
    assert second != first
    (tmp_path / "client.json").chmod(0o644)
    third = start()
    assert third not in (first, second), "others could have read it"
    assert num_keys() == 3
    database.dispose()
