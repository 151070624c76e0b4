"""Completion of the names of objects in a shell, from the service."""

import os
from collections.abc import Callable

import typer

from app.client.api import Api
from app.client.connection import resolve
from app.client.errors import ClientError
from app.client.references import Reference, shorten

MAX_OFFERED = 50
Candidates = list[tuple[str, str]]  # Each with a help.


def complete(reference: Reference) -> Callable[[typer.Context, str], Candidates]:
    """Return the completion of an argument that names such an object."""

    def find(context: typer.Context, incomplete: str) -> Candidates:
        try:
            address, key = (
                context.params.get(name) or os.environ.get(f"FALQON_{name.upper()}")
                for name in ("base_url", "api_key")
            )
            api = Api(resolve(address, key))
            try:
                newest = next(reference.pages(api), [])
            finally:
                api.close()
        except ClientError:  # A shell shows no errors.
            return []
        return _candidates(reference, newest, incomplete)[:MAX_OFFERED]

    return find


def _candidates(reference: Reference, newest: list[dict[str, object]], start: str) -> Candidates:
    """Return names that begin so: the short id, and the whole one for who has begun to write it."""
    candidates: dict[str, str] = {}
    for each in newest:
        id_, name = str(each["id"]), reference.name_of(each)
        short = shorten(id_)
        words = " ".join(str(part) for part in (name, each.get("status")) if part)
        forms = (short, name, id_) if start else (short,)
        for form in forms:
            if form and form.startswith(start):
                candidates.setdefault(form, words)
    return list(candidates.items())
