"""Indexes for projects with many jobs: files in use, models by age, and what quotas add up, which
all read whole tables
"""

import sqlalchemy as sa
from alembic import op

from migrations.operations import create_index, has_column

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_jobs_training_file_id_status_project_id_id": (
        "jobs",
        ["training_file_id", "status", "project_id", "id"],
    ),
    "ix_jobs_validation_file_id_status_project_id_id": (
        "jobs",
        ["validation_file_id", "status", "project_id", "id"],
    ),
    "ix_models_project_id_created_at_id": ("models", ["project_id", "created_at", "id"]),
    "ix_models_project_id_deleted_at_bytes": ("models", ["project_id", "deleted_at", "bytes"]),
    "ix_files_project_id_deleted_at_bytes": ("files", ["project_id", "deleted_at", "bytes"]),
    "ix_checkpoints_project_id_bytes": ("checkpoints", ["project_id", "bytes"]),
}


def upgrade() -> None:
    if not has_column("checkpoints", "project_id"):
        op.add_column("checkpoints", sa.Column("project_id", sa.String()))
    owner = "SELECT project_id FROM jobs WHERE jobs.id = checkpoints.job_id"
    op.execute(f"UPDATE checkpoints SET project_id = ({owner}) WHERE project_id IS NULL")
    for name, (table, columns) in INDEXES.items():
        create_index(name, table, columns)


def downgrade() -> None:
    for name, (table, _) in INDEXES.items():
        op.drop_index(name, table)
    op.drop_column("checkpoints", "project_id")
