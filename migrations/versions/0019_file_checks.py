"""The check of a file is an operation"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "file_checks",
        sa.Column("file_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("lease_expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("notified_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name=op.f("fk_file_checks_file_id_files"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("fk_file_checks_project_id_projects")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_file_checks")),
    )
    op.create_index("ix_file_checks_file_id", "file_checks", ["file_id"])
    op.create_index("ix_file_checks_status", "file_checks", ["status"])
    op.execute(
        "INSERT INTO file_checks (id, project_id, file_id, status, attempts, created_at) "
        "SELECT 'check-' || replace(id, 'file-', ''), project_id, id, 'in_progress', 0, created_at "
        "FROM files WHERE status = 'uploaded' AND deleted_at IS NULL"
    )


def downgrade() -> None:
    op.drop_table("file_checks")
