"""Schema of the first release."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0051"
down_revision = None
branch_labels = None
depends_on = None

JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "ended_sessions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("ended_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ended_sessions"),
    )
    op.create_index("ix_ended_sessions_ended_at", "ended_sessions", ["ended_at"])
    op.create_table(
        "installation",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("stored", sa.Boolean(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("collector", sa.String(), nullable=True),
        sa.Column("collecting_until", TIME, nullable=True),
        sa.Column("collected_at", TIME, nullable=True),
        sa.Column("surveyed_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("number", name="pk_installation"),
    )
    op.create_table(
        "orphans",
        sa.Column("storage_key", sa.String(), nullable=False),
        sa.Column("due_at", TIME, nullable=False),
        sa.Column("deleting", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("storage_key", name="pk_orphans"),
    )
    op.create_index("ix_orphans_due_at", "orphans", ["due_at"])
    op.create_table(
        "price_overrides",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("usd_per_device_hour", sa.String(), nullable=True),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_price_overrides"),
    )
    op.create_table(
        "projects",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("archived_at", TIME, nullable=True),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("max_live_jobs", sa.Integer(), nullable=True),
        sa.Column("max_storage_bytes", sa.BigInteger(), nullable=True),
        sa.Column("max_device_hours", sa.Double(), nullable=True),
        sa.Column("weight", sa.Integer(), server_default="1", nullable=False),
        sa.Column("virtual_time", sa.Double(), server_default="0", nullable=False),
        sa.Column("usage_month", sa.String(), nullable=True),
        sa.Column("usage_device_seconds", sa.Double(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
    )
    op.create_table(
        "worker_tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project_ids", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_worker_tokens"),
        sa.UniqueConstraint("secret_sha256", name="uq_worker_tokens_secret_sha256"),
    )
    op.create_table(
        "workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("num_devices", sa.Integer(), nullable=False),
        sa.Column("max_gpus", sa.Integer(), server_default="1", nullable=False),
        sa.Column("cards", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("seen_at", TIME, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("draining", sa.String(), nullable=True),
        sa.Column("diagnosis", JSON, nullable=True),
        sa.Column("calibration", JSON, nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_workers"),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("secret_sha256", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("revoked_at", TIME, nullable=True),
        sa.Column("last_used_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_api_keys_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("secret_sha256", name="uq_api_keys_secret_sha256"),
    )
    op.create_index("ix_api_keys_project_id", "api_keys", ["project_id"])
    op.create_table(
        "audit_logs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("resource_id", sa.String(), nullable=True),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("request_id", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_audit_logs_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_audit_logs"),
    )
    op.create_index("ix_audit_logs_created_at", "audit_logs", ["created_at"])
    op.create_index("ix_audit_logs_event_type_id", "audit_logs", ["event_type", "id"])
    op.create_index("ix_audit_logs_key_id_id", "audit_logs", ["key_id", "id"])
    op.create_index("ix_audit_logs_project_id_id", "audit_logs", ["project_id", "id"])
    op.create_index("ix_audit_logs_resource_id_id", "audit_logs", ["resource_id", "id"])
    op.create_table(
        "exports",
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("format", sa.String(), nullable=False),
        sa.Column("exported_model_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("notified_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_exports_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_exports"),
        sa.UniqueConstraint("exported_model_id", name="uq_exports_exported_model_id"),
    )
    op.create_index("ix_exports_project_id_source", "exports", ["project_id", "source"])
    op.create_index("ix_exports_status", "exports", ["status"])
    op.create_table(
        "files",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("storage_key", sa.String(), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("status_details", sa.String(), nullable=True),
        sa.Column("report", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=True),
        sa.Column("deleted_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_files_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_files"),
    )
    op.create_index(
        "ix_files_expires_at",
        "files",
        ["expires_at"],
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "ix_files_project_id_deleted_at_bytes", "files", ["project_id", "deleted_at", "bytes"]
    )
    op.create_index("ix_files_project_id_id", "files", ["project_id", "id"])
    op.create_index("ix_files_project_id_purpose_id", "files", ["project_id", "purpose", "id"])
    op.create_index("ix_files_status", "files", ["status"])
    op.create_index("ix_files_storage_key", "files", ["storage_key"])
    op.create_index(
        "uq_files_project_id_idempotency_key",
        "files",
        ["project_id", "idempotency_key"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "model_imports",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("conversions", JSON, server_default="[]", nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("notified_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_model_imports_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_model_imports"),
    )
    op.create_index("ix_model_imports_created_at", "model_imports", ["created_at"])
    op.create_index("ix_model_imports_status", "model_imports", ["status"])
    op.create_table(
        "models",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=True),
        sa.Column("base_model_id", sa.String(), nullable=True),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("format", sa.String(), nullable=True),
        sa.Column("config", JSON, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("deleted_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_models_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_models"),
    )
    op.create_index("ix_models_project_id", "models", ["project_id"])
    op.create_index(
        "ix_models_project_id_created_at_id", "models", ["project_id", "created_at", "id"]
    )
    op.create_index(
        "ix_models_project_id_deleted_at_bytes", "models", ["project_id", "deleted_at", "bytes"]
    )
    op.create_table(
        "source_tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("secret", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_source_tokens_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_source_tokens"),
        sa.UniqueConstraint("project_id", "kind", name="uq_source_tokens_project_id_kind"),
    )
    op.create_table(
        "studies",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("requested", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_studies_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_studies"),
    )
    op.create_index("ix_studies_project_id_id", "studies", ["project_id", "id"])
    op.create_table(
        "usage_days",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("base_model_id", sa.String(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.Column("device_seconds", sa.Double(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_usage_days_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("job_id", "day", name="pk_usage_days"),
    )
    op.create_index("ix_usage_days_day", "usage_days", ["day"])
    op.create_index("ix_usage_days_project_id_day", "usage_days", ["project_id", "day"])
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column(
            "event_types",
            JSON,
            nullable=False,
        ),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.String(), nullable=True),
        sa.Column("secret_generation", sa.Integer(), nullable=False),
        sa.Column("secret_hint", sa.String(), nullable=False),
        sa.Column("previous_secret_until", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_webhook_endpoints_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_endpoints"),
    )
    op.create_index("ix_webhook_endpoints_project_id", "webhook_endpoints", ["project_id"])
    op.create_table(
        "artifacts",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("block_sha256", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("storage_key", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["models.id"], name="fk_artifacts_model_id_models", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model_id", "name", name="pk_artifacts"),
    )
    op.create_index("ix_artifacts_storage_key", "artifacts", ["storage_key"])
    op.create_table(
        "dataset_statistics",
        sa.Column("file_id", sa.String(), nullable=False),
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("max_seq_length", sa.Integer(), nullable=False),
        sa.Column("validation_file_id", sa.String(), nullable=False),
        sa.Column("chat_template_kwargs", sa.String(), server_default="", nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("notified_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["file_id"],
            ["files.id"],
            name="fk_dataset_statistics_file_id_files",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["model_id"],
            ["models.id"],
            name="fk_dataset_statistics_model_id_models",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_dataset_statistics_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_dataset_statistics"),
        sa.UniqueConstraint(
            "file_id",
            "model_id",
            "max_seq_length",
            "validation_file_id",
            name="uq_dataset_statistics_key",
        ),
    )
    op.create_index("ix_dataset_statistics_status", "dataset_statistics", ["status"])
    op.create_table(
        "engines",
        sa.Column("model_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("address", sa.String(), nullable=True),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("used_at", TIME, nullable=False),
        sa.Column("keep_loaded", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.Column("num_requests", sa.Integer(), nullable=True),
        sa.Column("tokens_per_second", sa.Double(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_engines_model_id_models"),
        sa.PrimaryKeyConstraint("model_id", name="pk_engines"),
    )
    op.create_index("ix_engines_state", "engines", ["state"])
    op.create_table(
        "file_checks",
        sa.Column("file_id", sa.String(), nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("notified_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name="fk_file_checks_file_id_files", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_file_checks_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_file_checks"),
    )
    op.create_index("ix_file_checks_file_id", "file_checks", ["file_id"])
    op.create_index("ix_file_checks_status", "file_checks", ["status"])
    op.create_table(
        "file_imports",
        sa.Column("file_id", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("is_uploaded", sa.Boolean(), nullable=False),
        sa.Column("format", sa.String(), nullable=True),
        sa.Column("mapping", JSON, nullable=False),
        sa.Column("revision", sa.String(), nullable=True),
        sa.Column("sha256", sa.String(), nullable=True),
        sa.Column("bytes", sa.BigInteger(), nullable=True),
        sa.Column("progress", sa.Double(), nullable=False),
        sa.Column("num_records", sa.Integer(), nullable=False),
        sa.Column("first_records", JSON, nullable=False),
        sa.Column("ignored_columns", JSON, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("notified_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["file_id"], ["files.id"], name="fk_file_imports_file_id_files", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_file_imports_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_file_imports"),
    )
    op.create_index("ix_file_imports_file_id", "file_imports", ["file_id"])
    op.create_index("ix_file_imports_status", "file_imports", ["status"])
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("desired", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("num_gpus", sa.Integer(), server_default="1", nullable=False),
        sa.Column("gpu", sa.String(), server_default="any", nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("traceparent", sa.String(), nullable=True),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("base_model_id", sa.String(), nullable=False),
        sa.Column("base_checkpoint_id", sa.String(), nullable=True),
        sa.Column("study_id", sa.String(), nullable=True),
        sa.Column("training_file_id", sa.String(), nullable=False),
        sa.Column("validation_file_id", sa.String(), nullable=True),
        sa.Column("suffix", sa.String(), nullable=True),
        sa.Column("requested", JSON, nullable=False),
        sa.Column("recipe", JSON, nullable=True),
        sa.Column("estimate", JSON, nullable=True),
        sa.Column("actual", JSON, nullable=True),
        sa.Column("budget", JSON, nullable=True),
        sa.Column("metadata", JSON, nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(), nullable=True),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("infra_failures", sa.Integer(), nullable=False),
        sa.Column("not_before", TIME, nullable=True),
        sa.Column("held_by", sa.String(), nullable=True),
        sa.Column("held_until", TIME, nullable=True),
        sa.Column("last_event_seq", sa.Integer(), nullable=False),
        sa.Column("progress", JSON, nullable=True),
        sa.Column("device_seconds", sa.Double(), nullable=False),
        sa.Column("execution_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("paused_reason", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("error_param", sa.String(), nullable=True),
        sa.Column("trained_tokens", sa.BigInteger(), nullable=True),
        sa.Column("fine_tuned_model_id", sa.String(), nullable=True),
        sa.Column("result_file_id", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("notified_at", TIME, nullable=True),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.Column("events_removed_at", TIME, nullable=True),
        sa.CheckConstraint(
            "lease_owner IS NULL OR status = 'running'", name=op.f("ck_jobs_only_running_is_leased")
        ),
        sa.CheckConstraint(
            "(lease_owner IS NULL) = (lease_expires_at IS NULL)",
            name=op.f("ck_jobs_lease_is_whole"),
        ),
        sa.ForeignKeyConstraint(
            ["base_model_id"], ["models.id"], name="fk_jobs_base_model_id_models"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_jobs_project_id_projects"
        ),
        sa.ForeignKeyConstraint(
            ["training_file_id"], ["files.id"], name="fk_jobs_training_file_id_files"
        ),
        sa.ForeignKeyConstraint(
            ["validation_file_id"], ["files.id"], name="fk_jobs_validation_file_id_files"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_base_checkpoint_id", "jobs", ["base_checkpoint_id"])
    op.create_index(
        "ix_jobs_events_kept",
        "jobs",
        ["finished_at"],
        sqlite_where=sa.text("events_removed_at IS NULL"),
        postgresql_where=sa.text("events_removed_at IS NULL"),
    )
    op.create_index(
        "ix_jobs_project_id_base_model_id_id", "jobs", ["project_id", "base_model_id", "id"]
    )
    op.create_index("ix_jobs_project_id_id", "jobs", ["project_id", "id"])
    op.create_index("ix_jobs_project_id_status_id", "jobs", ["project_id", "status", "id"])
    op.create_index(
        "ix_jobs_queue",
        "jobs",
        [
            "status",
            "project_id",
            "desired",
            sa.literal_column("priority DESC"),
            "id",
            "not_before",
            "num_gpus",
            "gpu",
        ],
    )
    op.create_index(
        "ix_jobs_queued",
        "jobs",
        ["id"],
        sqlite_where=sa.text("status = 'queued'"),
        postgresql_where=sa.text("status = 'queued'"),
    )
    op.create_index("ix_jobs_status_id", "jobs", ["status", "id"])
    op.create_index("ix_jobs_study_id", "jobs", ["study_id"])
    op.create_index(
        "ix_jobs_training_file_id_status_project_id_id",
        "jobs",
        ["training_file_id", "status", "project_id", "id"],
    )
    op.create_index(
        "ix_jobs_validation_file_id_status_project_id_id",
        "jobs",
        ["validation_file_id", "status", "project_id", "id"],
    )
    op.create_index(
        "ix_jobs_without_metadata",
        "jobs",
        ["project_id", "id"],
        sqlite_where=sa.text("metadata IS NULL"),
        postgresql_where=sa.text("metadata IS NULL"),
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_lifetime_seconds", sa.Integer(), nullable=True),
        sa.Column("part_ids", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("file_id", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("expires_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name="fk_uploads_file_id_files"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_uploads_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
    )
    op.create_index("ix_uploads_project_id", "uploads", ["project_id"])
    op.create_index("ix_uploads_status_expires_at", "uploads", ["status", "expires_at"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("endpoint_id", sa.String(), nullable=False),
        sa.Column("event_id", sa.String(), nullable=False),
        sa.Column("event_type", sa.String(), nullable=False),
        sa.Column("event_at", TIME, nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("due_at", TIME, nullable=True),
        sa.Column("attempted_at", TIME, nullable=True),
        sa.Column("status_code", sa.Integer(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name="fk_webhook_deliveries_endpoint_id_webhook_endpoints",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_webhook_deliveries"),
    )
    op.create_index(
        "ix_webhook_deliveries_endpoint_id_id", "webhook_deliveries", ["endpoint_id", "id"]
    )
    op.create_index(
        "ix_webhook_deliveries_status_due_at", "webhook_deliveries", ["status", "due_at"]
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("num_devices", sa.Integer(), nullable=False),
        sa.Column("cards", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("base_model_id", sa.String(), nullable=True),
        sa.Column("method", sa.String(), nullable=True),
        sa.Column("start_step", sa.Integer(), nullable=True),
        sa.Column("relayed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("log_bytes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("ended_at", TIME, nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("tokens", sa.BigInteger(), nullable=True),
        sa.Column("train_seconds", sa.Double(), nullable=True),
        sa.Column("overhead_seconds", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_attempts_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name="pk_attempts"),
    )
    op.create_index("ix_attempts_ended_at", "attempts", ["ended_at"])
    op.create_index(
        "ix_attempts_kind",
        "attempts",
        ["base_model_id", "method", "device", "num_devices", "created_at"],
    )
    op.create_table(
        "checkpoints",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("storage_prefix", sa.String(), nullable=False),
        sa.Column("manifest_sha256", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("metrics", JSON, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_checkpoints_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoints"),
        sa.UniqueConstraint("job_id", "step", "attempt", name="uq_checkpoints_job_id_step_attempt"),
    )
    op.create_index("ix_checkpoints_project_id_bytes", "checkpoints", ["project_id", "bytes"])
    op.create_index("ix_checkpoints_storage_prefix", "checkpoints", ["storage_prefix"])
    op.create_table(
        "evaluations",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("file_id", sa.String(), nullable=False),
        sa.Column("origin", sa.String(), nullable=False),
        sa.Column("plan", JSON, nullable=False),
        sa.Column("num_rows", sa.Integer(), nullable=True),
        sa.Column("num_answers", sa.Integer(), nullable=False),
        sa.Column("scores", JSON, nullable=False),
        sa.Column("result", JSON, nullable=True),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_message", sa.String(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("lease_expires_at", TIME, nullable=True),
        sa.Column("notified_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_evaluations_job_id_jobs", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_evaluations_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_evaluations"),
    )
    op.create_index("ix_evaluations_job_id_id", "evaluations", ["job_id", "id"])
    op.create_index("ix_evaluations_status", "evaluations", ["status"])
    op.create_table(
        "events",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("level", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("data", JSON, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("first_seq", sa.Integer(), nullable=True),
        sa.Column("outline", JSON, nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_events_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
    )
    op.create_table(
        "job_metadata",
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name="fk_job_metadata_job_id_jobs", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_job_metadata"),
    )
    op.create_index(
        "ix_job_metadata_project_id_name_value_job_id",
        "job_metadata",
        ["project_id", "name", "value", "job_id"],
    )
    op.create_table(
        "submissions",
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("request_sha256", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["job_id"],
            ["jobs.id"],
            name="fk_submissions_job_id_jobs",
            ondelete="CASCADE",
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_submissions_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("project_id", "key", name="pk_submissions"),
    )
    op.create_index("ix_submissions_job_id", "submissions", ["job_id"])
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("upload_id", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("storage_key", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"],
            ["uploads.id"],
            name="fk_upload_parts_upload_id_uploads",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_upload_parts"),
    )
    op.create_index("ix_upload_parts_storage_key", "upload_parts", ["storage_key"])
    op.create_index("ix_upload_parts_upload_id", "upload_parts", ["upload_id"])
    op.create_table(
        "checkpoint_permissions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("checkpoint_id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["checkpoint_id"],
            ["checkpoints.id"],
            name="fk_checkpoint_permissions_checkpoint_id_checkpoints",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_checkpoint_permissions_project_id_projects"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_checkpoint_permissions"),
        sa.UniqueConstraint(
            "checkpoint_id", "project_id", name="uq_checkpoint_permissions_checkpoint_id_project_id"
        ),
    )
    op.create_index(
        "ix_checkpoint_permissions_project_id", "checkpoint_permissions", ["project_id"]
    )


def downgrade() -> None:
    for table in (
        "checkpoint_permissions",
        "upload_parts",
        "submissions",
        "job_metadata",
        "events",
        "evaluations",
        "checkpoints",
        "attempts",
        "webhook_deliveries",
        "uploads",
        "jobs",
        "file_imports",
        "file_checks",
        "engines",
        "dataset_statistics",
        "artifacts",
        "webhook_endpoints",
        "usage_days",
        "studies",
        "source_tokens",
        "models",
        "model_imports",
        "files",
        "exports",
        "audit_logs",
        "api_keys",
        "workers",
        "worker_tokens",
        "projects",
        "price_overrides",
        "orphans",
        "installation",
        "ended_sessions",
    ):
        op.drop_table(table)
