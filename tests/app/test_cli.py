import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.database import Database
from app.keys.service import authenticate
from app.models import Model, Scope
from app.settings import Settings
from tests.support.house import ROOT, TOY_TRAINER
from tests.support.service import free_port


def falqon(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = {"FALQON_DATA_DIR": str(folder), "FALQON_TRAINER_COMMAND": str(TOY_TRAINER).replace("'", '"'), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "app.cli", *arguments], capture_output=True, text=True, env=os.environ | settings, check=False
    )


def test_help_is_fast_and_names_the_commands(tmp_path: Path) -> None:
    started = time.monotonic()
    done = falqon(tmp_path, "--help")
    assert time.monotonic() - started < 2, "imports must wait for the command that needs them"
    assert all(word in done.stdout for word in ("up", "migrate", "worker", "admin", "files", "jobs", "models", "keys"))


def test_migrate_models_and_keys(tmp_path: Path) -> None:
    first, second = falqon(tmp_path, "migrate"), falqon(tmp_path, "migrate")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "shown this once: ft_live_" in first.stdout
    assert second.stdout == ""
    added = falqon(tmp_path, "admin", "models", "add", "house/tiny", "--source", "builtin:falqon-tiny")
    assert (added.returncode, added.stdout) == (0, "house/tiny is in the catalogue.\n"), added.stderr
    assert "already" in falqon(tmp_path, "admin", "models", "add", "house/tiny", "--source", "builtin:falqon-tiny").stdout
    refused = falqon(tmp_path, "admin", "models", "add", "house/tiny", "--source", str(tmp_path / "nowhere"))
    assert refused.returncode == 1
    assert "nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr

    secret = falqon(tmp_path, "admin", "keys", "create", "laptop", "--scope", "read").stdout.strip()
    database = Database(Settings(data_dir=tmp_path).resolved_database_url)
    with database.read() as session:
        assert authenticate(session, secret).scope is Scope.READ
        assert {model.id for model in session.query(Model)} == {"falqon-tiny", "house/tiny"}
    database.dispose()


def test_a_key_that_can_be_guessed_opens_nothing_to_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FALQON_ADMIN_KEY", "changeme" * 3)
    for arguments in (("up", "--host", "0.0.0.0", "--allow-remote", "--port", str(free_port())), ("migrate",)):
        refused = falqon(tmp_path, *arguments)
        assert refused.returncode == 1
        assert "FALQON_ADMIN_KEY can be guessed" in refused.stderr
        assert "Traceback" not in refused.stderr
