"""Every page, and every form of one, asked by nobody and by somebody of another project."""

from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import select, update

from app.models import Base, Evaluation, Scope
from app.web import pages
from tests.browser.scene import EVALUATE_EVERY, scene
from tests.contract.access_objects import (
    a_batch,
    a_delivery,
    a_group_grant,
    a_key,
    a_stored_answer,
    a_study,
    a_user,
    a_worker_token,
    an_alias,
    an_evaluation,
)
from tests.contract.test_access_matrix import routes_of
from tests.support.api import Api, Tenant
from tests.support.pages import SAME_SITE, sign_in, token

OPEN = {("GET", "/sign-in"), ("POST", "/sign-in"), ("POST", "/sign-out")}
PAGES = sorted(
    (method, path)
    for method, path in routes_of(pages.router.routes) - OPEN
    if method != "HEAD"  # answered by what answers GET
)
RUNG = {"notified_at": None}  # what the reconciler does meanwhile is nobody's doing
OF_SOMETHING = [(method, path) for method, path in PAGES if "{" in path]


@pytest.fixture(scope="module")
def ids(api: Api) -> dict[str, str]:
    """Of what somebody else has."""
    owner = Tenant(api, Scope.ADMIN)
    objects = scene(owner)
    settings = a_delivery(owner) | a_key(owner) | a_study(owner) | a_worker_token(owner)
    settings |= an_alias(owner) | a_user(owner) | a_group_grant(owner)
    settings |= a_stored_answer(owner) | a_batch(owner)
    evaluation = an_evaluation(owner)
    with api.database.transaction() as session:
        of_job = {"job_id": objects.succeeded}
        is_it = Evaluation.id == evaluation["evaluation_id"]
        session.execute(update(Evaluation).where(is_it).values(of_job))
    owner.http.close()
    return {
        "job_id": objects.succeeded,
        "evaluation_id": evaluation["evaluation_id"],
        "file_id": objects.file,
        "model": objects.model,
        "name": "config.json",
        "project_id": owner.project_id,
        "endpoint_id": settings["webhook_endpoint_id"],
        "delivery_id": settings["delivery_id"],
        "key_id": settings["key_id"],
        "study_id": settings["study_id"],
        "token_id": settings["token_id"],
        "user_id": settings["user_id"],
        "grant_id": settings["grant_id"],
        "alias": settings["alias"],
        "answer_id": settings["completion_id"],
        "batch_id": settings["batch_id"],
        "step": str(EVALUATE_EVERY),
    }


@pytest.fixture(scope="module")
def stranger(api: Api) -> Iterator[httpx.Client]:
    tenant = Tenant(api, Scope.ADMIN)
    with httpx.Client(base_url=api.url, verify=False, timeout=20) as browser:
        sign_in(browser, tenant)
        yield browser
    tenant.http.close()


def filled(path: str, ids: dict[str, str]) -> str:
    return path.replace(":path}", "}").format(**ids)


@pytest.mark.parametrize(("method", "path"), PAGES, ids=lambda part: part)
def test_a_visitor_without_a_session_sees_no_page(
    api: Api, ids: dict[str, str], method: str, path: str
) -> None:
    """A page or a file leads to the sign-in; streams, which nobody reads, are refused."""
    answer = httpx.request(method, api.url + filled(path, ids), headers=SAME_SITE, verify=False)
    led = (answer.status_code, answer.headers.get("location", "").partition("?")[0])
    assert led == (303, "/sign-in") or answer.status_code in {401, 403}


def belongings(api: Api, project_id: str) -> list[str]:
    """Every row of the project, and of its jobs and endpoints."""
    with api.database.read() as session:
        tables = Base.metadata.sorted_tables
        rows = [
            (table.name, dict(row._mapping) | RUNG)
            for table in tables
            for row in session.execute(select(table))
        ]
    mine = {
        project_id,
        *(row["id"] for _, row in rows if row.get("project_id") == project_id and "id" in row),
    }
    return sorted(
        repr((name, row))
        for name, row in rows
        if mine & {value for value in row.values() if isinstance(value, str)}
    )


@pytest.mark.parametrize(("method", "path"), OF_SOMETHING, ids=lambda part: part)
def test_objects_of_another_project_are_not_found_on_any_page(
    api: Api, stranger: httpx.Client, ids: dict[str, str], method: str, path: str
) -> None:
    """Some forms lead back to the page of the thing with what went wrong: not there either."""
    before = belongings(api, ids["project_id"])
    form = (
        None
        if method == "GET"
        else {
            "csrf": token(stranger.get("/")),
            "format": "bf16",
            "alias": "support",
            "serve_as": "shared",
            "name": "config.json",
            "expires_in_seconds": "60",
            "url": "https://8.8.8.8/",
            "event": "fine_tuning.job.failed",
            "event_type": "fine_tuning.job.failed",
        }
    )
    answer = stranger.request(method, filled(path, ids), data=form, headers=SAME_SITE)
    if answer.status_code == 303 and method == "POST":
        answer = stranger.get(answer.headers["location"])
    # the page of all keys says that this one is not there
    refused = answer.status_code == 404 or (
        method == "POST" and (answer.status_code == 403 or 'data-tone="bad"' in answer.text)
    )
    assert refused, answer.text[-500:]
    assert belongings(api, ids["project_id"]) == before


def test_a_key_that_may_only_read_is_offered_no_new_job(
    browser: httpx.Client, tenant: Tenant
) -> None:
    browser.post("/sign-in", data={"key": tenant.new_key(Scope.READ)}, headers=SAME_SITE)
    for path in ("/", "/models", "/compare"):
        assert "/jobs/new" not in browser.get(path).text, path
    form = browser.get("/jobs/new").text
    assert form.index("Your key is read-only") < form.index("1. Data")


def test_a_key_of_an_agent_is_told_what_it_may(browser: httpx.Client, tenant: Tenant) -> None:
    browser.post("/sign-in", data={"key": tenant.new_key(Scope.AGENT)}, headers=SAME_SITE)
    assert "train within its budget" in browser.get("/settings").text
    assert "With an agent&#39;s key" in browser.get("/").text
    assert "With an agent&#39;s key" in browser.get("/jobs/new").text
