import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

WORKER = Path(__file__).parents[2] / "worker"


def test_importing_a_command_does_not_import_heavy_packages() -> None:
    program = (
        "import sys, worker.entry.celery_app, worker.entry.tasks;"
        "sys.stdout.write(' '.join(sys.modules))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "numpy", "fastapi", "starlette"} & set(loaded)


def imports_of(tree: ast.AST) -> Iterator[str]:
    """Return the modules that the code imports, and for `from` also the name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_the_worker_builds_no_sql_itself() -> None:
    others = [
        f"{path.relative_to(WORKER)}: {name}"
        for path in sorted(WORKER.rglob("*.py"))
        for name in imports_of(ast.parse(path.read_text()))
        if name.startswith("sqlalchemy")
        and name != "sqlalchemy.orm.Session"
        and not name.startswith("sqlalchemy.exc.")
    ]
    assert others == []
