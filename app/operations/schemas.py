from typing import Self

from pydantic import BaseModel

from app.models.operation import Operation


class OperationError(BaseModel):
    code: str
    message: str

    @classmethod
    def of(cls, operation: Operation) -> Self | None:
        """Return what went wrong; None for an operation that has not failed."""
        return None if operation.error_code is None else cls(code=operation.error_code, message=operation.error_message or "")
