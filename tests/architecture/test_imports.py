import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("app.main", {"torch", "numpy", "worker"}),
        ("worker.tasks", {"torch", "fastapi", "starlette"}),
        ("app.cli", {"torch", "fastapi", "starlette", "sqlalchemy", "celery", "redis", "pydantic_settings", "alembic", "obstore"}),
    ],
)
def test_a_fresh_process_stays_free_of(module: str, absent: set[str]) -> None:
    program = f"import sys, {module}; sys.stdout.write(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not absent & set(loaded)
