"""Studies: methods compared on one project's data"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from migrations.operations import create_index, has_column, has_table

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None


def upgrade() -> None:
    json = sa.JSON(none_as_null=True).with_variant(
        postgresql.JSONB(none_as_null=True), "postgresql"
    )
    if not has_table("studies"):
        op.create_table(
            "studies",
            sa.Column("id", sa.String(), nullable=False),
            sa.Column("project_id", sa.String(), nullable=False),
            sa.Column("requested", json, nullable=False),
            sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
            sa.ForeignKeyConstraint(
                ["project_id"], ["projects.id"], name=op.f("fk_studies_project_id_projects")
            ),
            sa.PrimaryKeyConstraint("id", name=op.f("pk_studies")),
        )
        op.create_index("ix_studies_project_id_id", "studies", ["project_id", "id"])
    if not has_column("jobs", "study_id"):
        op.add_column("jobs", sa.Column("study_id", sa.String(), nullable=True))
    create_index("ix_jobs_study_id", "jobs", ["study_id"])


def downgrade() -> None:
    op.drop_index("ix_jobs_study_id", "jobs")
    op.drop_column("jobs", "study_id")
    op.drop_table("studies")
