"""Settings that cannot be meant are refused in one sentence before anything starts."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from app.base.settings import Settings, WrongSettings, load_settings, variable_of
from app.base.storage import Storage
from app.local import embedded
from tests.support.backend import ROOT
from tests.support.forks import Fork, run_module
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder without the developer's own .env; what a test reads into the environment goes."""
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            {"FALQON_LEASE": "PT5S", "FALQON_HEARTBEAT": "PT10S"},
            "FALQON_LEASE is 5 s and FALQON_HEARTBEAT 10 s",
        ),
        ({"FALQON_POLL": "PT0S"}, "FALQON_POLL: "),
        ({"FALQON_POLL": "10"}, "FALQON_POLL: a duration is written as PT0.5S"),
        ({"FALQON_HANG": "-PT1S"}, "FALQON_HANG: "),
        ({"FALQON_STOP_GRACE": "P2D"}, "FALQON_STOP_GRACE: "),
        ({"FALQON_NUM_THREADS": "0"}, "FALQON_NUM_THREADS: "),
        ({"FALQON_TRAINER_COMMAND": "[]"}, "FALQON_TRAINER_COMMAND: "),
        ({"FALQON_HOSTS": "a.example"}, "FALQON_HOSTS: this must be JSON"),
        ({"FALQON_ALLOWED_ORIGINS": '["https://a.example/"]'}, "is not an origin"),
        (
            {"FALQON_POL": "1"},
            "FALQON_POL is not a setting of this service; did you mean FALQON_POLL?",
        ),
        ({"FALQON_OIDC_ISSUER": "https://a.example"}, "needs FALQON_OIDC_CLIENT_ID"),
        ({"FALQON_OIDC_ISSUER": "http://a.example"}, "does not begin with https://"),
        ({"FALQON_OIDC_ISSUER": "https://"}, "is not the address of an identity provider"),
        ({"FALQON_OIDC_ISSUER": "https://a.example/?b"}, "an issuer has none"),
        ({"FALQON_OIDC_SCOPES": "email"}, "the scope 'openid' is missing"),
        ({"FALQON_DEVICE": "abacus"}, "FALQON_DEVICE is 'abacus'; known are auto, "),
        (
            {"falqon_hostz": "[]"},
            "falqon_hostz is not a setting of this service; did you mean FALQON_HOSTS?",
        ),
    ],
)
def test_an_impossible_setting_is_refused(
    environment: Mapping[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WrongSettings) as refused:
        load_settings()
    assert words in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_variable_of_the_user_s_own_is_warned_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FALQON_BIN", "/opt/falqon/bin")
    assert load_settings() == load_settings()
    assert capsys.readouterr() == (
        "",
        "FALQON_BIN is not a setting of this service and has no effect\n",
    )


def test_a_misspelled_setting_in_the_env_file_is_refused(elsewhere: Path) -> None:
    (elsewhere / ".env").write_text("FALQON_HEARTBEET=PT5S\nPOSTGRES_PASSWORD=x\n")
    with pytest.raises(WrongSettings, match="did you mean FALQON_HEARTBEAT"):
        load_settings()


def test_the_file_reaches_the_client_of_the_object_store(elsewhere: Path) -> None:
    """It reads the environment, and so do the processes that one of ours starts."""
    os.environ["AWS_REGION"] = "eu-west-3"
    lines = ["AWS_REGION=eu-west-1", "AWS_ENDPOINT_URL=http://10.0.0.7:9000", "AWS_ALLOW_HTTP=true"]
    (elsewhere / ".env").write_text("\n".join([*lines, "FALQON_POLL=PT3S"]))
    load_settings()
    assert os.environ["AWS_ENDPOINT_URL"] == "http://10.0.0.7:9000"
    assert os.environ["AWS_ALLOW_HTTP"] == "true"
    assert os.environ["AWS_REGION"] == "eu-west-3", "the environment wins"
    assert os.environ["FALQON_POLL"] == "PT3S"


def test_empty_variables_of_the_object_store_are_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "operator")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-bucket")
    load_settings()
    address = Storage("s3://bucket").signed_url("key", timedelta(minutes=1)) or ""
    assert address.startswith("https://s3.us-east-1.amazonaws.com/bucket/key?")


UNAVAILABLE = "service unavailable"


def test_the_token_of_a_joined_worker_may_stand_in_the_file(elsewhere: Path) -> None:
    (elsewhere / ".env").write_text("FALQON_WORKER_TOKEN=ft_work_of-nobody\n")
    output = elsewhere / "output"
    command = [sys.executable, "-m", "app.cli", "worker", "--join", "http://127.0.0.1:1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with output.open("wb") as file:
        worker = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        wait_for(
            lambda: UNAVAILABLE in output.read_text() or worker.poll() is not None, what="it asks"
        )
        assert UNAVAILABLE in output.read_text()
    finally:
        worker.kill()
        worker.wait()


def test_a_pace_in_the_file_is_that_of_up(elsewhere: Path) -> None:
    (elsewhere / ".env").write_text("FALQON_LEASE=PT40S\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert embedded.up("127.0.0.1", port, elsewhere / "data", False) == embedded.EXIT_FAILED
    assert load_settings().lease == timedelta(seconds=40)
    assert load_settings().heartbeat == timedelta(seconds=3)


def test_variables_of_the_client_and_of_kubernetes_are_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those of the client, and those that Kubernetes sets for a service named falqon."""
    for name in (
        "FALQON_API_KEY",
        "FALQON_BASE_URL",
        "FALQON_PORT",
        "FALQON_SERVICE_HOST",
        "FALQON_PORT_8000_TCP_ADDR",
        "FALQON_API_SERVICE_PORT_HTTP",
        "FALQONS_OWN",
    ):
        monkeypatch.setenv(name, "tcp://10.0.0.1:8000")
    monkeypatch.setenv("FALQON_NUM_THREADS", "")  # as a line of .env that nobody filled in
    monkeypatch.setenv("FALQON_HEARTBEAT", "PT30S")
    settings = load_settings()
    assert settings.num_threads is None
    assert settings.heartbeat == timedelta(seconds=30)


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    missing = [
        name for field in Settings.model_fields if f"`{(name := variable_of(field))}`" not in text
    ]
    assert missing == []


@pytest.mark.parametrize(
    "command",
    [
        ["uvicorn", "app.main:app", "--port", "0"],
        ["app.cli", "worker", "--queue", "gpu"],
        ["celery", "-A", "worker.entry.celery_app", "worker"],
        ["app.cli", "up", "--port", "8000"],
        ["app.cli", "migrate"],
    ],
    ids=["api", "worker", "celery", "up", "migrate"],
)
def test_every_process_reports_a_misspelled_setting_without_a_traceback(
    command: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "output"
    fork = Fork(run_module, command, environment=os.environ | {"FALQON_POL": "1"}, output=output)
    assert fork.wait(120) != 0
    assert "did you mean FALQON_POLL?" in output.read_text()
    assert "Traceback" not in output.read_text(), output.read_text()


def test_the_api_says_what_is_wrong_with_a_value(tmp_path: Path) -> None:
    output = tmp_path / "output"
    environment = os.environ | {"FALQON_POLL": "10"}
    command = ["app.cli", "api", "--port", "0"]
    fork = Fork(run_module, command, environment=environment, output=output)
    assert fork.wait(120) != 0
    assert "FALQON_POLL: a duration is written as" in output.read_text()
    assert "Traceback" not in output.read_text(), output.read_text()


def test_the_client_does_not_mind(elsewhere: Path) -> None:
    environment = os.environ | {"FALQON_POL": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "app.cli", "jobs", "list", "--base-url", "http://127.0.0.1:1"]
    done = subprocess.run(
        [*command, "--api-key", "x"], env=environment, capture_output=True, text=True, check=False
    )
    assert "FALQON_POL" not in done.stderr
