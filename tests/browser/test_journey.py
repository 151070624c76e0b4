"""The way of somebody new, by clicks alone: from an empty installation to the verdict about a model
of their own.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.test_new_job import SOON, written
from tests.browser.visit import Visits
from tests.support.local_server import QuietHandler, serving_by
from tests.support.service import KEY, Service

MAX_CLICKS = 10
NUM_RECORDS = 60  # enough for some to be held out


def record(number: int) -> dict[str, object]:
    question = {"role": "user", "content": f"What is {number}?"}
    answer = {"role": "assistant", "content": f"It is {number}."}
    return {"messages": [question, answer]}


class Engine(QuietHandler):
    """A fine-tuned model answers as its data does, any other with something else."""

    def do_GET(self) -> None:
        self.send(200, b"{}", content_type="application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        (number,) = re.findall(r"\d+", body["messages"][-1]["content"])
        text = f"It is {number}." if body["model"].startswith("ft:") else "Nobody knows."
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        answer = json.dumps({"choices": choices}).encode()
        self.send(200, answer, content_type="application/json")


@pytest.fixture
def empty_service(short_tmp: Path) -> Iterator[Service]:
    """An installation that nobody has used, with a quick trainer and an engine."""
    with serving_by(Engine) as address:
        quick = {"FALQON_NUM_THREADS": "1", "FALQON_HEARTBEAT": "PT0.3S", "FALQON_POLL": "PT0.5S"}
        environment = quick | {"FALQON_ENGINE_URL": address}
        service = Service(short_tmp / "journey", environment, forked=True)
        service.wait_until_up()
        yield service
        service.close()


def test_a_newcomer_has_a_verdict_in_ten_clicks(
    visits: Visits, empty_service: Service, tmp_path: Path
) -> None:
    clicks = 0

    def click(locator: Locator) -> None:
        nonlocal clicks
        locator.click()
        clicks += 1

    page = visits.sign_in(empty_service.url, KEY)
    click(page.get_by_role("link", name="New job").first)
    expect(page.get_by_role("button", name="Use example data")).to_be_visible()
    data = written(tmp_path, "own.jsonl", [record(number) for number in range(NUM_RECORDS)])
    page.get_by_label("A JSONL file").set_input_files(data)
    clicks += 2  # one opens the dialog, one chooses
    expect(page.locator("#report")).to_contain_text("60 records (messages)", timeout=SOON)
    click(page.get_by_role("button", name="Submit the job"))

    verdict = page.get_by_label("Progress", exact=True).get_by_role(
        "link", name=re.compile("Better than the base: 1.00 against 0.00")
    )
    expect(verdict).to_be_visible(timeout=SOON)
    click(verdict)
    click(page.get_by_role("link", name=re.compile("better than base")))
    first = page.get_by_role("region", name="Answers").get_by_role("article").first
    for words in ("Nobody knows.", "It is "):
        expect(first).to_contain_text(words)
    assert clicks <= MAX_CLICKS
