from datetime import datetime
from typing import Literal

from sqlalchemy import BigInteger, ForeignKey, Index, String, false
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, CreatedAt, JsonObject

ServeAs = Literal["merged", "shared"]


class Model(Base):
    """Base model (without a project), or the result of a job; its files are `artifacts`."""

    __tablename__ = "models"
    __table_args__ = (
        Index("ix_models_project_id_created_at_id", "project_id", "created_at", "id"),
        Index(
            "ix_models_project_id_deleted_at_bytes", "project_id", "deleted_at", "bytes"
        ),  # index for quotas: summed without the table
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[str | None] = mapped_column(ForeignKey("projects.id"), index=True)
    base_model_id: Mapped[str | None] = mapped_column(index=True)  # null for a base model
    job_id: Mapped[str | None]
    format: Mapped[str | None]  # format of an export; null for a base model and for a job's model
    config: Mapped[JsonObject]  # the model's config.json
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[CreatedAt]
    deleted_at: Mapped[datetime | None]
    # Last question or download, exact to the hour; null: since it was created there was none.
    used_at: Mapped[datetime | None]
    expires_at: Mapped[datetime | None]  # end of an unused model, of which its project was told
    is_pinned: Mapped[bool] = mapped_column(default=False, server_default=false())
    # Engines that are to answer for it at once, while it is asked.
    replicas: Mapped[int] = mapped_column(default=1, server_default="1")
    # Of a job's model; shared: as its adapter, once there is one whose distance is measured.
    serve_as: Mapped[ServeAs] = mapped_column(String, default="merged", server_default="merged")
