"""Shared parts of the commands of `falqon admin`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from app.base.database import Database
    from app.base.settings import Settings


def refuse(error: Exception | str) -> NoReturn:
    """End with the sentence of an error that somebody can act on."""
    from app.base.terminal import plain

    typer.echo(plain(error), err=True)
    raise typer.Exit(1)


@contextmanager
def refusing_what_is_unusable(settings: "Settings") -> Iterator[None]:
    """End with a sentence where the database or the storage cannot be used."""
    from app.local.bootstrap import CONNECTION_ERRORS, reason_of

    try:
        yield
    except CONNECTION_ERRORS as error:
        refuse(reason_of(error, settings))


@contextmanager
def open_database(settings: "Settings") -> Iterator["Database"]:
    """Up to date, so that these commands also work before the service has ever run."""
    from app.base import migrate
    from app.base.database import Database

    with refusing_what_is_unusable(settings):
        database = Database(settings.resolved_database_url)
        try:
            migrate.upgrade(database)
            yield database
        except migrate.CannotMigrate as error:
            refuse(error)
        finally:
            database.dispose()


@contextmanager
def open_session(settings: "Settings | None" = None, *, writes: bool = True) -> Iterator["Session"]:
    """Open that database for one transaction; a refusal ends the command with its sentence."""
    from app.base.errors import ApiError
    from app.base.settings import load_settings

    try:
        with (
            open_database(settings or load_settings()) as database,
            database.transaction() if writes else database.read() as session,
        ):
            yield session
    except ApiError as error:
        refuse(error)
