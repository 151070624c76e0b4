from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import JSON, Dialect, MetaData
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column
from sqlalchemy.sql.operators import OperatorType
from sqlalchemy.types import TypeDecorator, TypeEngine

from app.base.database import UtcDateTime, now_plus
from app.models.stored_json import build_validator, load_valid

JsonObject = dict[str, Any]
StoredJson = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
CreatedAt = Annotated[datetime, mapped_column(UtcDateTime, default=now_plus())]

T = TypeVar("T", bound=BaseModel)


class PydanticType(TypeDecorator[T], Generic[T]):
    """Column with a pydantic model in Python, JSON in the database. The value is replaced, never
    changed in place.

    `exclude_unset`: store only the fields that were set, so that a loaded value knows them.
    `exclude_none`: leave out None, for versions without that field or that choice. `drop_invalid`:
    of reported figures, read only the valid ones. `read_old`: turns what an older version stored
    into what this one would have.
    """

    impl = StoredJson
    cache_ok = True

    def __init__(
        self,
        model: type[T],
        exclude_unset: bool = False,
        exclude_none: bool = False,
        drop_invalid: bool = False,
        read_old: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        super().__init__()
        self.model = model
        self.drop_invalid = drop_invalid
        self.read_old = read_old
        self._validator = build_validator(model)
        self.exclude_unset = exclude_unset
        self.exclude_none = exclude_none

    def coerce_compared_value(self, op: OperatorType | None, value: Any) -> TypeEngine[Any]:
        """Compare an element of the JSON with a value as JSON does."""
        return self.impl_instance.coerce_compared_value(op, value)

    def process_bind_param(self, value: T | None, dialect: Dialect) -> JsonObject | None:
        return None if value is None else self.dump(value)

    def process_result_value(self, value: JsonObject | None, dialect: Dialect) -> T | None:
        return None if value is None else self.load(value)

    def dump(self, value: T) -> JsonObject:
        """Return the stored form."""
        return value.model_dump(
            mode="json", exclude_unset=self.exclude_unset, exclude_none=self.exclude_none
        )

    def load(self, value: JsonObject) -> T | None:
        """Return the value that `dump` was given, without rules that became stricter since."""
        value = self.read_old(value)
        if self.drop_invalid:
            return load_valid(self.model, value)
        stored: T = self._validator.validate_python(value)
        return stored


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        datetime: UtcDateTime,
        JsonObject: StoredJson,
    }
