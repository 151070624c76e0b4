"""What must be there before the first request: tables, the default project with a key, the small model."""

from app import migrate
from app.catalogue.importer import ensure_tiny_model
from app.database import Database
from app.keys.service import ensure_admin_key
from app.settings import Settings
from app.storage import Storage


def prepare(settings: Settings) -> str | None:
    """Returns the API key if one was generated. Doing it twice changes nothing."""
    database = Database(settings.resolved_database_url)
    try:
        migrate.upgrade(database)
        secret = ensure_admin_key(database, settings)
        ensure_tiny_model(database, Storage(settings.resolved_storage_url), settings)
        return secret
    finally:
        database.dispose()
