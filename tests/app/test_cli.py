import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.auth.keys import check_secret
from app.base.database import Database
from app.base.settings import Settings
from app.cli import app
from app.models import Model, Scope
from tests.support.backend import FAKE_TRAINER, ROOT
from tests.support.forks import Fork, run_falqon
from tests.support.nvidia import H100, install_driver
from tests.support.schema import migrate_database
from tests.support.service import free_port

COMMAND_SECONDS = 120  # the machine may be busy


def environment_of(folder: Path) -> dict[str, str]:
    return {
        "FALQON_DATA_DIR": str(folder),
        "FALQON_TRAINER_COMMAND": str(FAKE_TRAINER).replace("'", '"'),
        "PYTHONPATH": str(ROOT),
    }


def falqon(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own that need not import anything."""
    with tempfile.TemporaryDirectory() as streams:
        stdout = Path(streams) / "stdout"
        stderr = Path(streams) / "stderr"
        environment = os.environ | environment_of(folder)
        fork = Fork(_run, arguments, stderr, environment=environment, output=stdout)
        returncode = fork.wait(COMMAND_SECONDS)
        return subprocess.CompletedProcess(
            arguments, returncode, stdout.read_text(), stderr.read_text()
        )


def _run(arguments: tuple[str, ...], stderr: Path) -> None:
    with stderr.open("wb") as file:
        os.dup2(file.fileno(), 2)
    run_falqon(arguments)


def test_help_names_the_commands_without_heavy_imports(tmp_path: Path) -> None:
    """Imports wait for the command that needs them, or help would take seconds."""
    command = [sys.executable, "-X", "importtime", "-m", "app.cli", "--help"]
    settings = os.environ | environment_of(tmp_path)
    done = subprocess.run(command, capture_output=True, text=True, env=settings, check=False)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in imported
    heavy = {"alembic", "celery", "fastapi", "obstore", "openai", "pydantic", "redis", "sqlalchemy"}
    assert not imported & (heavy | {"pydantic_settings", "starlette", "torch"})
    assert all(
        word in done.stdout
        for word in ("up", "migrate", "worker", "admin", "files", "jobs", "models", "keys")
    )


def test_a_key_can_be_made_before_the_first_start(tmp_path: Path) -> None:
    made = falqon(tmp_path, "admin", "keys", "create", "operator", "--scope", "admin")
    assert (made.returncode, made.stderr) == (0, "")
    assert made.stdout.startswith("ft_live_")


def test_migrate_models_and_keys(tmp_path: Path) -> None:
    first = falqon(tmp_path, "migrate")
    second = falqon(tmp_path, "migrate")
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "shown this once: ft_live_" in first.stdout
    assert second.stdout == ""
    added = falqon(
        tmp_path, "admin", "models", "add", "backend/tiny", "--source", "builtin:falqon-tiny"
    )
    assert (added.returncode, added.stdout) == (0, "backend/tiny is in the catalogue.\n"), (
        added.stderr
    )
    assert (
        "already"
        in falqon(
            tmp_path, "admin", "models", "add", "backend/tiny", "--source", "builtin:falqon-tiny"
        ).stdout
    )
    refused = falqon(
        tmp_path, "admin", "models", "add", "backend/tiny", "--source", str(tmp_path / "nowhere")
    )
    assert refused.returncode == 1
    assert "nowhere" in refused.stderr
    assert "Traceback" not in refused.stderr
    gone = falqon(tmp_path, "admin", "models", "remove", "falqon-tiny")
    assert gone.stdout.startswith("falqon-tiny is removed"), gone.stderr
    listed = falqon(tmp_path, "admin", "models", "list").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["backend/tiny"]
    unknown = falqon(tmp_path, "admin", "models", "remove", "falqon-tiny")
    assert (unknown.returncode, unknown.stderr) == (1, "The model 'falqon-tiny' does not exist.\n")

    secret = falqon(tmp_path, "admin", "keys", "create", "laptop", "--scope", "read").stdout.strip()
    database = Database(Settings(data_dir=tmp_path).resolved_database_url)
    with database.read() as session:
        assert check_secret(session, secret).scope is Scope.READ
        assert {model.id for model in session.query(Model)} == {"falqon-tiny", "backend/tiny"}
    database.dispose()


def test_three_migrations_at_once_all_succeed(tmp_path: Path, empty_database_url: str) -> None:
    """Two of three failed on an empty Postgres: each saw no table, and each made all of them."""
    environment = os.environ | environment_of(tmp_path) | {"DATABASE_URL": empty_database_url}
    logs = [tmp_path / f"{number}.log" for number in range(3)]
    started = [Fork(run_falqon, ["migrate"], environment=environment, output=log) for log in logs]
    codes = [fork.wait(COMMAND_SECONDS) for fork in started]
    outputs = [log.read_text() for log in logs]
    assert codes == [0, 0, 0], outputs
    assert sum("shown this once: ft_live_" in output for output in outputs) == 1


@pytest.mark.parametrize("command", [["migrate"], ["admin", "models", "list"]])
@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("postgresql://falqon:secret-word@127.0.0.1:1/falqon", "does not answer"),
        ("mysterious://somewhere", "cannot be read"),
    ],
)
def test_a_missing_database_is_reported_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], url: str, word: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    done = falqon(tmp_path, *command)
    assert done.returncode == 1
    assert word in done.stderr
    assert "DATABASE_URL" in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "secret-word" not in done.stderr


def test_a_missing_storage_is_reported_in_one_sentence_and_makes_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that was made and not shown could never be shown again."""
    with monkeypatch.context() as patch:
        patch.setenv("STORAGE_URL", "s3://models/objects")
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        patch.setenv("AWS_ALLOW_HTTP", "true")
        patch.setenv("AWS_ACCESS_KEY_ID", "a")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        for command in (["migrate"], ["admin", "garbage", "--dry-run"]):
            refused = falqon(tmp_path, *command)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert "The storage s3://models/objects takes nothing" in refused.stderr
            assert "falqon check" in refused.stderr
            assert "Traceback" not in refused.stderr
    assert "shown this once" in falqon(tmp_path, "migrate").stdout


@pytest.mark.parametrize("command", ["up", "api"])
def test_a_port_that_cannot_be_is_refused(tmp_path: Path, command: str) -> None:
    refused = falqon(tmp_path, command, "--port", "70000")
    assert refused.returncode == 2
    assert "65535" in refused.stderr


def make_tables(folder: Path) -> None:
    """Leave little of `migrate` to do."""
    folder.mkdir()
    database = Database(Settings(data_dir=folder).resolved_database_url)
    migrate_database(database)
    database.dispose()


def test_a_key_that_can_be_guessed_opens_nothing_to_other_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALQON_ADMIN_KEY", "changeme" * 3)
    for arguments in (
        ("up", "--host", "0.0.0.0", "--allow-remote", "--port", str(free_port())),
        ("migrate",),
    ):
        refused = falqon(tmp_path, *arguments)
        assert refused.returncode == 1
        assert "FALQON_ADMIN_KEY can be guessed" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_garbage_and_a_storage_of_another(tmp_path: Path) -> None:
    left = tmp_path / "left"
    right = tmp_path / "right"
    for folder in (left, right):
        make_tables(folder)
        assert falqon(folder, "migrate").returncode == 0
    lost = left / "objects" / "projects" / "p" / "lost"
    lost.parent.mkdir(parents=True)
    lost.write_bytes(b"12345")
    os.utime(lost, (1, 1))
    result = falqon(left, "admin", "garbage", "--dry-run")
    assert "Without a row for 22 hours: 1 (5 bytes)" in result.stdout, result.stderr
    assert "projects/p/lost" in result.stdout
    assert "older than the database" in result.stdout
    assert falqon(left, "admin", "garbage").returncode == 2
    assert "running API: 1\n" in falqon(left, "admin", "garbage", "--confirm").stdout
    shutil.copy(left / "falqon.db", right / "falqon.db")
    for arguments in (
        ("migrate",),
        ("admin", "garbage", "--confirm"),
        ("up", "--port", str(free_port())),
    ):
        refused = falqon(right, *arguments)
        assert refused.returncode == 1
        assert "falqon admin adopt-storage" in refused.stderr.replace("\n", " ")
        assert "Traceback" not in refused.stderr
    assert "belongs to this database" in falqon(right, "admin", "adopt-storage").stdout
    assert falqon(right, "migrate").returncode == 0
    assert "older copy" in falqon(right, "admin", "garbage", "--dry-run").stdout


def test_doctor_is_the_trainers_and_sees_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import os, sys; print(sys.argv[1:], 'FALQON_ADMIN_KEY' in os.environ); sys.exit(1)"
    monkeypatch.setenv("FALQON_ADMIN_KEY", "a-key-for-tests-0123456789")
    monkeypatch.setenv("FALQON_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("FALQON_TRAINER_COMMAND", json.dumps([sys.executable, "-c", program]))
    command = [sys.executable, "-m", "app.cli", "doctor", "--model", "some/model", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert (done.returncode, done.stdout) == (
        1,
        "['doctor', '--model', 'some/model', '--json'] False\n",
    )


def test_a_worker_gets_the_cards_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, H100, H100)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("FALQON_CARDS", "[0, 1]")
    monkeypatch.setattr(os, "execv", lambda *_: None)
    worker = [*["worker", "--queue", "gpu", "--devices"]]
    for devices, reason in (("0,3", "3 is not one that trains here"), ("a", "no list of numbers")):
        refused = CliRunner().invoke(app, [*worker, devices])
        assert (refused.exit_code, reason in refused.output) == (2, True), refused.output
    assert CliRunner().invoke(app, [*worker, "1"]).exit_code == 0
    assert Settings().cards == (1,)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["admin", "keys", "--help"]])
def test_unprintable_output_is_reported_in_a_sentence(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "app.cli", *arguments]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    sentence = "Error: the output cannot be written: No space left on device.\n"
    assert (ended.returncode, ended.stderr) == (1, sentence)


@pytest.mark.parametrize(
    ("closed", "arguments", "status"), [("<&-", "", 2), (">&-", "--once Hi --json", 4)]
)
def test_a_closed_standard_stream_counts_as_empty(closed: str, arguments: str, status: int) -> None:
    command = f"{sys.executable} -m app.cli chat some-model {arguments} {closed}"
    environment = os.environ | {"FALQON_BASE_URL": "http://127.0.0.1:1", "FALQON_API_KEY": "key"}
    ended = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == status, ended.stderr
    assert "Traceback" not in ended.stderr
