from contextvars import copy_context

from sqlalchemy import func, select

from app.auth import audit
from app.auth.caller import Caller
from app.base.database import Database
from app.models import DEFAULT_PROJECT_ID, AuditLog, Project, Scope

CALLER = Caller("key_1", DEFAULT_PROJECT_ID, Scope.ADMIN, None, use_is_due=False)


def test_a_request_that_has_ended_is_not_blamed_for_what_follows_in_a_copy_of_its_context(
    database: Database,
) -> None:
    def write(project_id: str) -> None:
        with database.transaction() as session:
            session.add(Project(id=project_id, name=project_id))

    with audit.watch("project.created", None, "req_1", "127.0.0.1"):
        audit.note_caller(CALLER)
        kept = copy_context()
    kept.run(write, "proj_later")
    kept.run(audit.note_caller, CALLER)  # of the connection's next request, which is not watched
    kept.run(write, "proj_latest")
    with database.read() as session:
        assert session.scalar(select(func.count()).select_from(AuditLog)) == 0
