"""A comparison follows its jobs until all of them have ended."""

from itertools import takewhile

import httpx

from app.models import JobStatus
from tests.browser import scene
from tests.support.api import Tenant


def test_statuses_figures_and_results_follow_the_jobs(
    browser: httpx.Client, tenant: Tenant
) -> None:
    file = tenant.upload()
    first, second = (scene.job(tenant, file, name, 10) for name in ("first", "second"))
    address = f"job={first.job_id}&job={second.job_id}"
    stream_address = f'hx-sse:connect="/compare/live?{address.replace("&", "&amp;")}"'
    assert stream_address in browser.get(f"/compare?{address}").text
    with browser.stream("GET", f"/compare/live?{address}") as stream:
        lines = stream.iter_lines()
        whole = "".join(takewhile(bool, lines))
        assert all(f"#compare-{part}" in whole for part in ("jobs", "results"))
        scene.finish(tenant, first, JobStatus.FAILED)
        ended = "".join(takewhile(bool, lines))
        assert ("#compare-jobs" in ended, ">failed<" in ended) == (True, True)
    scene.finish(tenant, second, JobStatus.SUCCEEDED)
    assert stream_address not in browser.get(f"/compare?{address}").text


def test_a_comparison_with_an_unknown_job_has_no_stream(
    browser: httpx.Client, tenant: Tenant
) -> None:
    own = tenant.job().id
    other = Tenant(tenant.api)
    strange = other.job().id
    other.http.close()
    assert browser.get(f"/compare/live?job={own}&job={strange}").status_code == 404
    assert browser.get(f"/compare/live?job={own}").status_code == 400
