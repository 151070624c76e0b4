"""Commands that wait for a change, while the service goes away."""

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from app.client import compare, polling
from app.client.api import Api
from app.client.command import Client
from app.client.connection import Connection
from app.client.errors import ApiUnavailable
from app.client.output import Output
from app.client.polling import poll
from tests.app.client.conftest import Falqon
from tests.support.local_server import QuietHandler, serving_by
from tests.support.proxy import Proxy
from tests.support.service import KEY, Service
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Api, "repeat_after_seconds", (0.01,))
    monkeypatch.setattr(polling, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(compare, "STUDY_POLL_SECONDS", 0.05)


def test_a_study_is_followed_through_a_restart(
    falqon: Falqon, service: Service, proxy: Proxy, fake_file: Callable[..., Path]
) -> None:
    comes_back: list[Proxy] = []

    def go_away_for_a_while() -> None:
        wait_for(lambda: proxy.heads("GET /v1/falqon/studies/"))
        proxy.close()
        threading.Event().wait(0.5)
        comes_back.append(Proxy(service.port, at=proxy.port))

    restart = threading.Thread(target=go_away_for_a_while)
    restart.start()
    data = ("--file", str(fake_file(steps=40, step_seconds=0.05)), "--output", "table.md")
    there = ("--base-url", proxy.url, "--api-key", KEY)
    methods = ("--model", "falqon-tiny", "--methods", "falqon,lora")
    done = falqon("compare", *methods, *data, "--watch", *there)
    restart.join()
    comes_back[0].close()
    assert done.exit_code == 0, done.stderr
    assert "Trying again." in done.stderr
    assert "2 succeeded" in done.stderr
    assert Path("table.md").read_text().startswith("|")


class _Fails(QuietHandler):
    """Answers as the service does where it has a defect."""

    def do_GET(self) -> None:
        error = {"message": "The server had an error.", "type": "server_error", "code": "x"}
        self.send(500, json.dumps({"error": error}).encode())


def test_a_service_that_fails_at_the_request_is_not_waited_for() -> None:
    with serving_by(_Fails) as url:
        client = Client(Api(Connection(f"{url}/v1", KEY)), Output(as_json=False))
        with pytest.raises(ApiUnavailable, match="The server had an error"):
            poll(client, "/files/file-1", how_to_go_on="Run it again.")
        client.api.close()
