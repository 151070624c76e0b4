from typing import Any, Literal, Self

from pydantic import BaseModel

from app.http.pagination import Object
from app.models.operation import Operation

Status = Literal["in_progress", "completed", "failed"]


class OperationError(BaseModel):
    code: str
    message: str

    @classmethod
    def of(cls, operation: Operation) -> Self | None:
        """Return the error of a failed operation, otherwise None."""
        if operation.error_code is None:
            return None
        return cls(code=operation.error_code, message=operation.error_message or "")


class OperationObject(Object):
    """Fields that every operation with an object of its own shows."""

    status: Status
    error: OperationError | None
    created_at: int

    @staticmethod
    def values_of(operation: Operation) -> dict[str, Any]:
        return {
            "id": operation.id,
            "status": operation.status,
            "error": OperationError.of(operation),
            "created_at": int(operation.created_at.timestamp()),
        }
