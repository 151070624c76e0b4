"""Who changed what. A request that may change something is watched; the first of its transactions
that writes also writes who asked, so neither stands without the other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, event, select
from sqlalchemy.orm import ORMExecuteState, Session, UOWTransaction

from app.auth.caller import Caller
from app.base.database import UNSYNCED, Database, now_plus_once, unit_of_work
from app.base.ids import new_id
from app.models import AuditLog, Orphan

PREFIX = "audit_log-"
KEPT = timedelta(days=400)
_watched: ContextVar["Watch | None"] = ContextVar("watched", default=None)


class Watch:
    """What is known of a request before it has changed anything. `caller` is set once they are
    known; a request of nobody leaves no row.
    """

    def __init__(
        self, event_type: str, resource_id: str | None, request_id: str, address: str
    ) -> None:
        self._event_type = event_type
        self._resource_id = resource_id
        self._request_id = request_id
        self._address = address
        self._is_written = False
        self._is_over = False
        self.caller: Caller | None = None
        self.session_id: str | None = None

    def note_caller(self, caller: Caller, session_id: str | None) -> None:
        if not self._is_over:
            self.caller = caller
            self.session_id = session_id

    def end(self) -> None:
        """Note nothing any more, whoever still has this."""
        self.caller = None
        self._is_over = True

    def expect(self, resource_id: str) -> None:
        self._resource_id = resource_id
        self._is_written = False

    @contextmanager
    def watching(self, session: Session) -> Iterator[None]:
        """Add the row to a transaction that has written something, before it commits."""
        if self.caller is None or self._is_written:
            yield
            return
        writes = _Writes(session)
        yield
        session.flush()
        if writes.any:
            session.add(self._row(self.caller, writes.first_new_id))
            event.listen(session, "after_commit", self._note_commit, once=True)

    def _row(self, caller: Caller, new_resource_id: str | None) -> AuditLog:
        is_new = self._event_type.endswith(".created")
        return AuditLog(
            id=new_id(PREFIX),
            event_type=self._event_type,
            resource_id=(is_new and new_resource_id) or self._resource_id,
            project_id=caller.project_id,
            key_id=caller.key_id,
            session_id=self.session_id,
            request_id=self._request_id,
            address=self._address,
        )

    def _note_commit(self, _session: Session) -> None:
        self._is_written = True


class _Writes:
    """What a transaction writes, but for the notes on bytes that have no row yet."""

    def __init__(self, session: Session) -> None:
        self.any = False
        self.first_new_id: str | None = None
        event.listen(session, "after_flush", self._on_flush)
        event.listen(session, "do_orm_execute", self._on_execute)

    def _on_flush(self, session: Session, _context: UOWTransaction) -> None:
        self.any |= bool(session.new or session.dirty or session.deleted)
        for row in session.new:
            id_: Any = getattr(row, "id", None)
            if self.first_new_id is None and isinstance(id_, str):
                self.first_new_id = id_

    def _on_execute(self, state: ORMExecuteState) -> None:
        if state.is_select or (state.bind_mapper and state.bind_mapper.class_ is Orphan):
            return
        self.any |= state.is_insert or state.is_update or state.is_delete


@contextmanager
def watch(
    event_type: str, resource_id: str | None, request_id: str, address: str
) -> Iterator[Watch]:
    """Watch the transactions of this request."""
    watched = Watch(event_type, resource_id, request_id, address)
    of_transactions = unit_of_work.set(watched.watching)
    of_request = _watched.set(watched)
    try:
        yield watched
    finally:
        # uvicorn may read the connection's next requests in a copy of this context
        watched.end()
        _watched.reset(of_request)
        unit_of_work.reset(of_transactions)


def note_caller(caller: Caller, session_id: str | None = None) -> None:
    """Say who sent the request, where it is watched."""
    if watched := _watched.get():
        watched.note_caller(caller, session_id)


def note_resource(resource_id: str) -> None:
    """Say what is changed next, where one request changes several: each has a row of its own."""
    if watched := _watched.get():
        watched.expect(resource_id)


def remove_old(database: Database) -> None:
    """Remove rows that have been kept long enough."""
    is_old = AuditLog.created_at < now_plus_once(-KEPT.total_seconds())
    with database.read() as session:
        # ordered, so that Postgres reads the index of it
        oldest = select(AuditLog.id).where(is_old).order_by(AuditLog.created_at).limit(1)
        if session.scalar(oldest) is None:
            return
    with database.transaction() as session:
        session.execute(delete(AuditLog).where(is_old), execution_options=UNSYNCED)
