"""Jobs that are asked for again, found again, continued and shared"""

import json

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

WITHOUT_METADATA = sa.text("metadata IS NULL")


def upgrade() -> None:
    if not has_table("submissions"):
        _create_tables()
    create_index(op.f("ix_jobs_base_checkpoint_id"), "jobs", ["base_checkpoint_id"])
    create_index("ix_jobs_project_id_status_id", "jobs", ["project_id", "status", "id"])
    of_model = ["project_id", "base_model_id", "id"]
    create_index("ix_jobs_project_id_base_model_id_id", "jobs", of_model)
    bare = {"sqlite_where": WITHOUT_METADATA, "postgresql_where": WITHOUT_METADATA}
    create_index("ix_jobs_without_metadata", "jobs", ["project_id", "id"], **bare)


def _create_tables() -> None:
    op.create_table(
        "submissions",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name=op.f("fk_submissions_job_id_jobs"),
            ondelete="CASCADE",
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_submissions_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("project_id", "key", name=op.f("pk_submissions")),
    )
    op.create_index(op.f("ix_submissions_job_id"), "submissions", ["job_id"])
    op.create_table(
        "job_metadata",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_job_metadata_job_id_jobs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "name", name=op.f("pk_job_metadata")),
    )
    op.create_index(
        "ix_job_metadata_project_id_name_value_job_id",
        "job_metadata",
        ["project_id", "name", "value", "job_id"],
    )
    op.create_table(
        "checkpoint_permissions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"],
            ["checkpoints.id"],
            name=op.f("fk_checkpoint_permissions_checkpoint_id_checkpoints"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name=op.f("fk_checkpoint_permissions_project_id_projects"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_checkpoint_permissions")),
        sa.UniqueConstraint(
            "checkpoint_id",
            "project_id",
            name=op.f("uq_checkpoint_permissions_checkpoint_id_project_id"),
        ),
    )
    op.create_index(
        op.f("ix_checkpoint_permissions_project_id"), "checkpoint_permissions", ["project_id"]
    )
    op.add_column("jobs", sa.Column("base_checkpoint_id", sa.String(), nullable=True))
    _copy_metadata()


def downgrade() -> None:
    # No batch: on SQLite it builds the table anew, and dropping the old one would take all rows
    # that refer to it along.
    op.drop_index("ix_jobs_without_metadata", "jobs")
    op.drop_index("ix_jobs_project_id_base_model_id_id", "jobs")
    op.drop_index("ix_jobs_project_id_status_id", "jobs")
    op.drop_index(op.f("ix_jobs_base_checkpoint_id"), "jobs")
    op.drop_column("jobs", "base_checkpoint_id")
    op.drop_table("checkpoint_permissions")
    op.drop_table("job_metadata")
    op.drop_table("submissions")


def _copy_metadata() -> None:
    connection = op.get_bind()
    pairs = sa.table(
        "job_metadata",
        sa.column("job_id"),
        sa.column("name"),
        sa.column("value"),
        sa.column("project_id"),
    )
    jobs = connection.execute(
        sa.text("SELECT id, project_id, metadata FROM jobs WHERE metadata IS NOT NULL")
    ).all()
    for job_id, project_id, metadata in jobs:
        named_values = json.loads(metadata) if isinstance(metadata, str) else metadata
        rows = [
            {"job_id": job_id, "name": name, "value": value, "project_id": project_id}
            for name, value in named_values.items()
        ]
        if rows:
            connection.execute(sa.insert(pairs), rows)
