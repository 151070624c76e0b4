"""Files of one purpose are read from an index of theirs, however many results stand between them"""

from alembic import op

from migrations.operations import create_index

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_index("ix_files_project_id_purpose_id", "files", ["project_id", "purpose", "id"])


def downgrade() -> None:
    op.drop_index("ix_files_project_id_purpose_id", "files")
