from typing import Self

from pydantic import BaseModel

from app.models.wish import Wish


class FailureObject(BaseModel):
    code: str
    message: str

    @classmethod
    def of(cls, wish: Wish) -> Self | None:
        """None for a wish that has not failed."""
        return None if wish.error_code is None else cls(code=wish.error_code, message=wish.error_message or "")
