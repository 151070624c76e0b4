"""The rows of `benchmarks/pages.py`: statements that make a table of jobs a large project's."""

from benchmarks.api import rows

STEPS = 300  # of the newest jobs, whose curves the page draws
OTHER_PROJECTS = """
    INSERT INTO projects (id, name, created_at, weight, virtual_time, usage_device_seconds)
    SELECT 'proj_' || n, 'project ' || n, now(), 1, 0, 0 FROM generate_series(0, :others - 1) n
"""
MOVED = """
    UPDATE jobs SET project_id = 'proj_' || (('x' || right(id, 6))::bit(24)::int % :others)
    WHERE status IN ('succeeded', 'failed', 'cancelled')
      AND ('x' || substr(md5(id), 1, 6))::bit(24)::int % 10 >= 6
"""
MODELS = """
    INSERT INTO models (id, project_id, base_model_id, job_id, config, bytes, created_at)
    SELECT 'ft:falqon-tiny:project:run:' || right(id, 8), project_id, base_model_id, id,
           '{"hidden_size": 64}', 1000000, created_at
    FROM jobs WHERE status IN ('succeeded', 'failed', 'cancelled')
"""
CURVES = f"""
    INSERT INTO events (job_id, seq, attempt, level, type, message, data, created_at)
    SELECT id, n, 1, 'info', 'metrics', 'Step ' || n,
           jsonb_build_object('step', n, 'train_loss', 1.5, 'learning_rate', 0.0001,
                              'grad_norm', 0.5, 'tokens_per_second', 5000.0,
                              'train_mean_token_accuracy', 0.5),
           now()
    FROM (SELECT id FROM jobs WHERE project_id = :project ORDER BY id DESC LIMIT 60) newest,
         generate_series({rows.NUM_EVENTS + 1}, {STEPS}) n
"""
COUNTED = """
    UPDATE jobs SET last_event_seq = :steps
    WHERE id IN (SELECT id FROM jobs WHERE project_id = :project ORDER BY id DESC LIMIT 60)
"""
OLD_FILE = """
    INSERT INTO files (id, project_id, filename, purpose, bytes, sha256, storage_key, status,
                       created_at)
    SELECT 'file-old', project_id, filename, purpose, bytes, sha256, storage_key, status, created_at
    FROM files LIMIT 1
"""
RETRAINED = (
    "UPDATE jobs SET training_file_id = 'file-old' WHERE id <> :id AND project_id = :project AND "
    "right(id, 1) < '8'"
)
RUNS_NOW = """
    UPDATE jobs SET status = 'running', lease_owner = 'w', attempt = 1, finished_at = NULL,
                    lease_expires_at = now() + interval '1 day'
    WHERE id = :id
"""
