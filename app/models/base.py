from datetime import datetime
from typing import Annotated, Any

from sqlalchemy import JSON, MetaData
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, mapped_column

from app.database import UtcDateTime, now_plus

JsonObject = dict[str, Any]
CreatedAt = Annotated[datetime, mapped_column(UtcDateTime, default=now_plus())]


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
    type_annotation_map = {datetime: UtcDateTime, JsonObject: JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")}
