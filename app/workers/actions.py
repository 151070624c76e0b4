"""What callers do with workers; each function is one unit of work."""

from collections.abc import Sequence

from app.auth import audit, worker_tokens
from app.auth.caller import Caller
from app.http.pagination import Page
from app.services import Services
from app.workers import service
from app.workers.schemas import WorkerObject, WorkerTokenRequest, WorkerTokenView


def list_workers(services: Services, caller: Caller) -> Page[WorkerObject]:
    """Return those that have a job, and those that looked for one lately, newest first."""
    with services.database.read() as session:
        workers = service.list_live(session, services.settings)
    return Page[WorkerObject].of([WorkerObject.of(worker, caller.project_id) for worker in workers])


def create_token(
    services: Services, caller: Caller, request: WorkerTokenRequest
) -> tuple[WorkerTokenView, str]:
    """Make a token for workers that see only the API; its secret is returned here and never
    again.
    """
    caller.must_administer_installation()
    with services.database.transaction() as session:
        token, secret = worker_tokens.create(session, request.name, request.project_ids)
        session.refresh(token)
        audit.record(session, caller, "worker_token.created", token.id)
    return WorkerTokenView.of(token), secret


def list_tokens(services: Services, caller: Caller) -> Sequence[WorkerTokenView]:
    """Return those that are not revoked, oldest first."""
    caller.must_administer_installation()
    with services.database.read() as session:
        tokens = worker_tokens.list_all(session)
    return [WorkerTokenView.of(token) for token in tokens]


def revoke_token(services: Services, caller: Caller, token_id: str) -> None:
    caller.must_administer_installation()
    with services.database.transaction() as session:
        worker_tokens.revoke(session, token_id)
        audit.record(session, caller, "worker_token.deleted", token_id)
