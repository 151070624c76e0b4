"""Preparation for the first request: tables, the default project with a key, the small model.

`falqon up` has it done by a process of its own (`python -m app.local.bootstrap URL`), as the
libraries of databases and storage would stay in its memory for as long as the service is up.
"""

import json
import sys

from obstore.exceptions import BaseError as StorageError
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from app.auth.keys import check_secret
from app.base import migrate
from app.base.database import DATABASE_UNAVAILABLE_ERRORS, Database
from app.base.errors import InvalidApiKey
from app.base.settings import Settings, load_settings
from app.base.storage import Storage
from app.catalogue.importer import ModelNotAdded, ensure_tiny_model
from app.client import local
from app.client.errors import NoConnection
from app.garbage import installation
from app.keys.service import WeakAdminKey, add_key, ensure_admin_key
from app.models import DEFAULT_PROJECT_ID, Scope
from app.web import link

CONNECTION_ERRORS = (*DATABASE_UNAVAILABLE_ERRORS, ArgumentError, StorageError)


class NotPrepared(Exception):
    """With a sentence for the person who asked."""


def prepare(settings: Settings) -> str | None:
    """Return the API key if one was generated; idempotent. Raises `NotPrepared` and
    `installation.Mismatch`.
    """
    try:
        database = Database(settings.resolved_database_url)
    except ArgumentError as error:
        raise NotPrepared(reason_of(error, settings)) from None
    try:
        migrate.upgrade(database)
        with migrate.one_at_a_time(database):
            return _bootstrap(database, settings)
    except CONNECTION_ERRORS as error:
        raise NotPrepared(reason_of(error, settings)) from None
    except (ModelNotAdded, migrate.CannotMigrate) as error:
        raise NotPrepared(str(error)) from None
    finally:
        database.dispose()


def reason_of(error: Exception, settings: Settings) -> str:
    """Say what is wrong with database or storage, when one of `CONNECTION_ERRORS` was raised."""
    reason = str(error.__cause__ or error).strip().splitlines()[0]
    if isinstance(error, ArgumentError):
        return f"DATABASE_URL cannot be read: {reason}"
    if isinstance(error, StorageError):
        url = settings.resolved_storage_url
        return f"The storage {url} takes nothing: {reason}. `falqon check` says more."
    where = make_url(settings.resolved_database_url).render_as_string()
    return (
        f"The database {where} does not answer: {reason}. See that it "
        "runs and that DATABASE_URL is right."
    )


def _bootstrap(database: Database, settings: Settings) -> str | None:
    # The key last: one that was made before something failed would never be shown.
    storage = Storage(settings.resolved_storage_url)
    installation.mark(database, storage)
    ensure_tiny_model(database, storage, settings)
    return ensure_admin_key(database, settings)


def key_for_this_machine(settings: Settings, generated: str | None) -> str:
    """Return the key that commands beside `falqon up` use.

    That of last time while it is valid, else the one just generated, else a new one.
    """
    database = Database(settings.resolved_database_url)
    try:
        if key := _key_of_last_time(settings, database) or generated:
            return key
        with database.transaction() as session:
            return add_key(session, DEFAULT_PROJECT_ID, "commands on this machine", Scope.ADMIN)[1]
    finally:
        database.dispose()


def sign_in_link(settings: Settings, base_url: str, secret: str) -> str:
    """Opens the dashboard once, as this key."""
    database = Database(settings.resolved_database_url)
    try:
        with database.read() as session:
            key_id = check_secret(session, secret).key_id
        return f"{base_url}/sign-in?link={link.issue(settings.data_dir.resolve(), key_id)}"
    finally:
        database.dispose()


def _key_of_last_time(settings: Settings, database: Database) -> str | None:
    try:
        stored = local.read(settings.data_dir.resolve())
        if stored is None:
            return None
        with database.read() as session:
            check_secret(session, stored.api_key)
        return stored.api_key
    except (
        NoConnection,
        InvalidApiKey,
    ):  # Others could read the file, or the key was revoked.
        return None


def _main(base_url: str) -> None:
    settings = load_settings()
    try:
        generated = prepare(settings)
    except (NotPrepared, WeakAdminKey, installation.Mismatch) as error:
        raise SystemExit(str(error)) from None
    key = key_for_this_machine(settings, generated)
    link = sign_in_link(settings, base_url, key)
    json.dump({"generated": generated, "key": key, "link": link}, sys.stdout)


if __name__ == "__main__":
    _main(sys.argv[1])
