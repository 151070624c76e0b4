"""The audit log as the tests read it, and the routes that leave it alone, each with the reason."""

from sqlalchemy import select

from app.base.database import Database
from app.models import AuditLog

A_QUESTION = "it changes nothing"
UNAUDITED = {
    "/v1/chat/completions": A_QUESTION,
    "/v1/completions": A_QUESTION,
    "/v1/embeddings": A_QUESTION,
    "/v1/responses": A_QUESTION,
    "/playground/v1/chat/completions": A_QUESTION,
    "/v1/fine_tuning/estimates": A_QUESTION,
    "/jobs/new/estimate": A_QUESTION,
    "/hub/api/{kind}/{repo:path}/paths-info/{revision}": A_QUESTION,
    "/v1/fine_tuning/alpha/graders/run": "there are no such graders",
    "/v1/fine_tuning/alpha/graders/validate": "there are no such graders",
    "/v1/uploads/{upload_id}/parts": "a file of thousands of parts is one upload",
    "/v1/webhook_endpoints/{webhook_endpoint_id}/test": "a sample leaves nothing behind",
    "/settings/webhooks/{endpoint_id}/test": "a sample leaves nothing behind",
    "/v1/models/{model:path}/links": "a link is signed and stored nowhere",
    "/models/{model:path}/links": "a link is signed and stored nowhere",
    "/project": "each of the keys has signed in by itself",
}
SAFE = {"GET", "HEAD", "OPTIONS"}


def rows_of(database: Database, request_id: str) -> list[AuditLog]:
    """Return what a request has left in the audit log."""
    with database.read() as session:
        rows = select(AuditLog).where(AuditLog.request_id == request_id).order_by(AuditLog.id)
        return list(session.scalars(rows))
