"""Operations have one name for each kind, attempts and leases; jobs are notified, projects have a
virtual time. It renames: no process of an older version may run beside it.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

TABLES = {"trials": "generations", "inspections": "dataset_statistics"}
COLUMNS = {
    "exports": {"tries": "attempts", "claimed_at": "lease_expires_at"},
    "generations": {"tries": "attempts", "claimed_at": "lease_expires_at"},
    "dataset_statistics": {"tries": "attempts", "claimed_at": "lease_expires_at"},
    "jobs": {"rung_at": "notified_at"},
    "projects": {"turn": "virtual_time"},
    "orphans": {"doomed": "deleting"},
}
INDEXES = {
    "generations": (["status"], ["project_id", "model_id"]),
    "dataset_statistics": (["status"],),
}
CONSTRAINTS = {
    "generations": ("pk_{}", "fk_{}_project_id_projects"),
    "dataset_statistics": ("pk_{}", "fk_{}_file_id_files", "fk_{}_model_id_models"),
}
NOTIFIED = ("exports", "generations", "dataset_statistics")
STATISTICS_KEY = ["file_id", "model_id", "max_seq_length", "validation_file_id"]
OWNER = "fk_dataset_statistics_project_id_projects"


def upgrade() -> None:
    for before, after in TABLES.items():
        _rename_table(before, after, INDEXES[after], CONSTRAINTS[after])
    for table, columns in COLUMNS.items():
        for before, after in columns.items():
            op.execute(f"ALTER TABLE {table} RENAME COLUMN {before} TO {after}")
    for table in NOTIFIED:
        op.add_column(table, sa.Column("notified_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("dataset_statistics", sa.Column("project_id", sa.String(), nullable=True))
    owner = "SELECT project_id FROM files WHERE files.id = dataset_statistics.file_id"
    op.execute(f"UPDATE dataset_statistics SET project_id = ({owner})")
    with op.batch_alter_table("dataset_statistics") as batch:
        batch.alter_column("project_id", existing_type=sa.String(), nullable=False)
        batch.create_foreign_key(OWNER, "projects", ["project_id"], ["id"])
        batch.drop_constraint("uq_inspections_question", type_="unique")
        batch.create_unique_constraint("uq_dataset_statistics_key", STATISTICS_KEY)


def downgrade() -> None:
    with op.batch_alter_table("dataset_statistics") as batch:
        batch.drop_constraint("uq_dataset_statistics_key", type_="unique")
        batch.create_unique_constraint("uq_inspections_question", STATISTICS_KEY)
        batch.drop_constraint(OWNER, type_="foreignkey")
        batch.drop_column("project_id")
    for table in NOTIFIED:
        op.drop_column(table, "notified_at")
    for table, columns in COLUMNS.items():
        for before, after in columns.items():
            op.execute(f"ALTER TABLE {table} RENAME COLUMN {after} TO {before}")
    for before, after in TABLES.items():
        _rename_table(after, before, INDEXES[after], CONSTRAINTS[after])


def _rename_table(
    before: str, after: str, indexes: Sequence[list[str]], constraints: Sequence[str]
) -> None:
    """Rename a table with what is named after it; SQLite keeps the old names of keys."""
    op.rename_table(before, after)
    is_postgres = op.get_context().dialect.name == "postgresql"
    for columns in indexes:
        names = [f"ix_{table}_{'_'.join(columns)}" for table in (before, after)]
        if is_postgres:
            op.execute(f"ALTER INDEX {names[0]} RENAME TO {names[1]}")
        else:
            op.drop_index(names[0], after)
            op.create_index(names[1], after, columns)
    for name in constraints if is_postgres else ():
        renaming = f"{name.format(before)} TO {name.format(after)}"
        op.execute(f"ALTER TABLE {after} RENAME CONSTRAINT {renaming}")
