"""The messages of a job beyond the newest, which its page shows."""

import re
from html import unescape

import httpx
import pytest

from app.jobs.events import NewEvent, append
from app.web import job_view
from tests.support.api import Tenant

NUM_SHOWN = 3
NUM_ADDED = 7


@pytest.fixture
def job_id(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a job with more messages than its page shows, and metrics between them."""
    monkeypatch.setattr(job_view, "MAX_MESSAGES", NUM_SHOWN)
    id_: str = tenant.job().id
    with tenant.api.database.transaction() as session:
        for number in range(NUM_ADDED):
            step = NewEvent("step", type="metrics", data={"step": number, "train_loss": 1.0})
            append(session, id_, [NewEvent(f"Message {number}"), step])
    return id_


def messages_in(page: httpx.Response) -> list[str]:
    return re.findall(r'<li id="event-\d+".*?<span>(.*?)</span></li>', page.text)


def older(page: httpx.Response) -> list[str]:
    addresses = re.findall(r'href="([^"]+)"[^>]*>Show more of them', page.text)
    return [unescape(address) for address in addresses]


def every_message(tenant: Tenant, job_id: str) -> list[str]:
    events = tenant.client.fine_tuning.jobs.list_events(job_id, limit=100)
    return [event.message for event in events if event.type == "message"]


def test_a_page_leads_to_every_older_message(
    browser: httpx.Client, tenant: Tenant, job_id: str
) -> None:
    page = browser.get(f"/jobs/{job_id}")
    assert "There are older events." in page.text
    messages = messages_in(page)
    while addresses := older(page):
        page = browser.get(addresses[0])
        assert 0 < len(messages_in(page)) <= NUM_SHOWN
        assert f'href="/jobs/{job_id}/events">Newest' in page.text
        messages += messages_in(page)
    assert messages == every_message(tenant, job_id)
    assert "There are older events." not in page.text
    assert messages_in(browser.get(f"/jobs/{job_id}/events")) == messages[:NUM_SHOWN]


def test_a_script_gets_what_to_add_to_the_page(browser: httpx.Client, job_id: str) -> None:
    (address,) = older(browser.get(f"/jobs/{job_id}"))
    part = browser.get(address, headers={"hx-request": "true"})
    assert "<html" not in part.text
    assert re.findall(r'hx-target="#([\w-]+)" hx-swap="(\w+)"', part.text) == [
        ("events", "beforeend"),
        ("older-events", "outerMorph"),
    ]
    assert len(messages_in(part)) == NUM_SHOWN
    assert older(part) != [address]


def test_a_job_with_few_messages_has_no_older_messages(
    browser: httpx.Client, tenant: Tenant
) -> None:
    assert "There are older events." not in browser.get(f"/jobs/{tenant.job().id}").text
