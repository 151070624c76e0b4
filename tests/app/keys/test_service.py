import pytest
from sqlalchemy import select

from app.auth.keys import check_secret
from app.base.database import Database
from app.base.settings import Settings
from app.keys.service import WeakAdminKey, ensure_admin_key
from app.models import DEFAULT_PROJECT_ID, ApiKey, Scope


def settings(**options: str) -> Settings:
    return Settings(_env_file=None, **options)


def test_a_first_key_is_made_once(database: Database) -> None:
    secret = ensure_admin_key(database, settings())
    assert secret is not None
    assert ensure_admin_key(database, settings()) is None
    with database.read() as session:
        caller = check_secret(session, secret)
        assert (caller.project_id, caller.scope) == (DEFAULT_PROJECT_ID, Scope.ADMIN)
        row = session.scalars(select(ApiKey)).one()
        assert secret not in (row.id, row.name, row.secret_sha256)


def test_a_chosen_admin_key_of_any_shape_works_and_nothing_is_generated(database: Database) -> None:
    chosen = "a-key-of-my-own-liking"
    for _ in range(2):
        assert ensure_admin_key(database, settings(admin_key=chosen)) is None
    with database.read() as session:
        assert check_secret(session, chosen).scope is Scope.ADMIN
        assert len(session.scalars(select(ApiKey)).all()) == 1
    with pytest.raises(WeakAdminKey, match="shorter than 20"):
        ensure_admin_key(database, settings(admin_key="short"))
    for guessable in ("changeme" * 4, "a" * 40, "12345678" * 3, "adminadminadminadmin"):
        with pytest.raises(WeakAdminKey, match="can be guessed"):
            ensure_admin_key(database, settings(admin_key=guessable))
