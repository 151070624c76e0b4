from datetime import datetime
from typing import Annotated

from pydantic import BaseModel, Field
from sqlalchemy import ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, PydanticType
from app.models.strict_model import StrictModel

ALIAS_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:@+-]{0,199}$"
UPSTREAM_PREFIX = "upstream:"  # of a model elsewhere; no model here has an id like that
MAX_TARGETS = 8
MAX_WEIGHT = 1_000_000
EVERYWHERE = text("project_id IS NULL")


def is_upstream(model_id: str) -> bool:
    """Return True for a model that the operator's upstream has, and this service does not."""
    return model_id.startswith(UPSTREAM_PREFIX)


class AliasTarget(StrictModel):
    """Model that a name stands for, with its weight among the others."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] = 1


class AliasTargets(BaseModel):
    """Models that a name stands for; none: the name was deleted."""

    models: list[AliasTarget] = []

    @property
    def heaviest(self) -> str:
        """Return the model that most requests go to; of equals the first."""
        return max(self.models, key=lambda target: target.weight).model


class Alias(Base):
    """Version of a name that stands for models. The newest version of a name is in force."""

    __tablename__ = "aliases"
    __table_args__ = (
        Index("uq_aliases_project_id_name_version", "project_id", "name", "version", unique=True),
        # SQL tells every null from every other.
        Index(
            "uq_aliases_everywhere",
            "name",
            "version",
            unique=True,
            sqlite_where=EVERYWHERE,
            postgresql_where=EVERYWHERE,
        ),
        Index("ix_aliases_name", "name"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"))  # null: every one
    name: Mapped[str]
    version: Mapped[int]
    targets: Mapped[AliasTargets] = mapped_column(PydanticType(AliasTargets))
    key_id: Mapped[str | None]  # null: from the settings
    switch_id: Mapped[str | None]  # the switch that set it; null: a person did
    created_at: Mapped[CreatedAt]
    replaced_at: Mapped[datetime | None]
