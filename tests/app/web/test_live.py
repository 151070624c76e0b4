import asyncio
import threading
import time

import httpx
import pytest

from app.base.ids import new_id
from app.web.live import MAX_PAUSE_SECONDS, MIN_PAUSE_SECONDS, POLLS_AT_ONCE, pause, read_in_turn
from tests.support.api import Api, Tenant
from tests.support.plans import statements
from tests.support.waiting import wait_for


def test_an_open_page_is_not_read_again_while_nothing_changes(
    api: Api, browser: httpx.Client, tenant: Tenant
) -> None:
    job_id = tenant.job().id
    with (
        browser.stream("GET", "/live") as stream,
        statements(api.app.state.services.database) as queries,
    ):
        lines = stream.iter_lines()  # let go of, it closes the stream
        next(line for line in lines if f"row-{job_id}" in line)

        def count(column: str) -> int:
            return sum(column in statement for statement, _ in queries)

        wait_for(lambda: count("projects.id IN") >= 4)  # looks at what has changed
    # The page of the start, and once more: the first look does not know yet what the page has seen.
    assert count("jobs.requested") <= 2


def test_the_stream_of_what_is_deleted_ends(browser: httpx.Client, tenant: Tenant) -> None:
    job_id = tenant.job().id
    with browser.stream("GET", f"/jobs/{job_id}/live") as stream:
        lines = stream.iter_lines()
        next(lines)
        tenant.client.fine_tuning.jobs.cancel(job_id)
        assert tenant.http.delete(f"/v1/fine_tuning/jobs/{job_id}").status_code == 200
        assert "event: ended" in list(lines)
    model = new_id("ft:tiny:acme::")
    tenant.add_model(model, project_id=tenant.project_id, job_id=job_id)
    with browser.stream("GET", f"/models/{model}/live") as stream:
        lines = stream.iter_lines()
        next(lines)
        tenant.client.models.delete(model)
        assert list(lines)[-1] == "", "whole, not cut off"
    assert browser.get(f"/models/{model}/live").status_code == 404


def test_a_waiting_job_shows_the_jobs_before_it(
    browser: httpx.Client, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.pages.job.WAITING_SECONDS", 0.1)
    first, second = tenant.job(), tenant.job()
    position = second.queue["position"]
    with browser.stream("GET", f"/jobs/{second.id}/live") as stream:
        lines = stream.iter_lines()
        assert any(f"Number {position} in the queue" in line for line in lines)
        tenant.client.fine_tuning.jobs.cancel(first.id)
        assert any(f"Number {position - 1} in the queue" in line for line in lines)


def test_many_open_pages_leave_threads_to_requests() -> None:
    num_reading, most = 0, 0
    lock = threading.Lock()

    def read() -> int:
        nonlocal num_reading, most
        with lock:
            num_reading += 1
            most = max(most, num_reading)
        time.sleep(0.02)
        with lock:
            num_reading -= 1
        return num_reading

    async def read_all() -> None:
        await asyncio.gather(*(read_in_turn(read) for _ in range(20)))

    asyncio.run(read_all())
    assert most == POLLS_AT_ONCE


@pytest.mark.parametrize(
    ("took", "seconds"), [(0.0, MIN_PAUSE_SECONDS), (0.3, 2.7), (60.0, MAX_PAUSE_SECONDS)]
)
def test_a_look_that_takes_long_is_followed_by_a_long_pause(took: float, seconds: float) -> None:
    assert pause(took) == pytest.approx(seconds)
