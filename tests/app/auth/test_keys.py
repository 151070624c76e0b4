import pytest

from app.auth.keys import check_secret
from app.base.database import Database
from app.base.errors import InvalidApiKey
from app.base.settings import Settings
from app.keys.service import add_key, ensure_admin_key
from app.models import DEFAULT_PROJECT_ID, Scope


def test_a_key_opens_with_its_exact_secret_only(database: Database) -> None:
    ensure_admin_key(database, Settings(_env_file=None))
    with database.transaction() as session:
        _, secret = add_key(session, DEFAULT_PROJECT_ID, "k", Scope.READ)
    with database.read() as session:
        assert check_secret(session, secret).scope is Scope.READ
        for wrong in (secret[:-1], secret + "x", secret.upper(), ""):
            with pytest.raises(InvalidApiKey):
                check_secret(session, wrong)
