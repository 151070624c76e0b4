"""Models that a project sees, encoded once and kept while they stay the same.

To the official client the list is one page, however long: with 60,000 models nearly all of the time
was spent on encoding the same text again.
"""

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock
from typing import Any

from sqlalchemy.orm import Session

from app.catalogue import repository
from app.catalogue.repository import ListVersion
from app.catalogue.schemas import fields_of, fields_of_alias
from app.models import Alias

MAX_KEPT_BYTES = 2**26  # bytes of all cached lists; some 300,000 models


@dataclass(frozen=True, slots=True)
class EncodedList:
    """Models of one project, or the base models, as text: objects with commas between them."""

    tally: ListVersion
    text: bytes
    first_id: str | None = None
    last_id: str | None = None
    newest: datetime | None = None  # creation time of the newest model


@dataclass(frozen=True, slots=True)
class ListKey:
    """Models of one project, or the base models, except some formats."""

    owner: str | None
    without: tuple[str, ...]


class ModelLists:
    """Encoded model lists of one process. Each use checks that the list is current."""

    def __init__(self) -> None:
        self._kept: OrderedDict[ListKey, EncodedList] = OrderedDict()
        self._lock = Lock()

    def page(
        self,
        session: Session,
        project_id: str,
        without: tuple[str, ...] = (),
        aliases: Sequence[Alias] = (),
    ) -> bytes:
        """Return the JSON of the list: base models, then the project's own, oldest first, except
        some formats; then the names that stand for models.
        """
        bases = self._read(session, ListKey(None, without))
        own = self._read(session, ListKey(project_id, without))
        ids = {
            "first_id": bases.first_id or own.first_id,
            "last_id": aliases[-1].name if aliases else own.last_id or bases.last_id,
            "has_more": False,
        }
        if aliases and ids["first_id"] is None:
            ids["first_id"] = aliases[0].name
        names = _encode(map(fields_of_alias, aliases))
        parts = [text for text in (bases.text, own.text, names) if text]
        return (
            b'{"object":"list","data":['
            + b",".join(parts)
            + b"],"
            + json.dumps(ids, ensure_ascii=False).encode()[1:]
        )

    def _read(self, session: Session, key: ListKey) -> EncodedList:
        # Counted before the read: a model added in between only causes another read.
        tally = repository.tally(session, key.owner)
        with self._lock:
            before = self._kept.get(key)
        encoded = before
        if encoded is None or encoded.tally != tally:
            encoded = (before and _extend(session, key, before, tally)) or _read_all(
                session, key, tally
            )
        self._keep(key, encoded)
        return encoded

    def _keep(self, key: ListKey, encoded: EncodedList) -> None:
        with self._lock:
            self._kept[key] = encoded
            self._kept.move_to_end(key)
            size = sum(len(other.text) for other in self._kept.values())
            while size > MAX_KEPT_BYTES:
                size -= len(self._kept.popitem(last=False)[1].text)


def _extend(
    session: Session, key: ListKey, before: EncodedList, tally: ListVersion
) -> EncodedList | None:
    """Append the new models; None after any other change."""
    num_new = tally.num_models - before.tally.num_models
    if (
        before.newest is None
        or tally != before.tally._replace(num_models=tally.num_models)
        or num_new < 0
    ):
        return None
    new = repository.list_models(
        session,
        key.owner,
        without=key.without,
        after=(before.newest, str(before.last_id)),
        limit=num_new + 1,
    )
    # A model that was begun earlier was written later, or one has an excluded format.
    if len(new) != num_new:
        return None
    text = b",".join((before.text, _encode(map(fields_of, new))))
    return replace(before, tally=tally, text=text, last_id=new[-1].id, newest=new[-1].created_at)


def _read_all(session: Session, key: ListKey, tally: ListVersion) -> EncodedList:
    texts: list[bytes] = []
    first_id, last = None, None
    for rows in repository.list_in_parts(session, key.owner, without=key.without):
        first_id = first_id or rows[0].id
        last = rows[-1]
        texts.append(_encode(map(fields_of, rows)))
    return EncodedList(
        tally, b",".join(texts), first_id, last and last.id, last and last.created_at
    )


def _encode(objects: Iterable[dict[str, Any]]) -> bytes:
    return json.dumps(list(objects), ensure_ascii=False, separators=(",", ":")).encode()[1:-1]
