import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import escape, unescape

import httpx
import pytest

from app.base.ids import new_id
from app.models import Project, Scope
from tests.contract.access_objects import a_delivery
from tests.support.api import Api, Tenant, installation_admin
from tests.support.pages import SAME_SITE, token
from tests.support.receiver import Receiver, silent_receiver
from tests.support.waiting import wait_for

SECRET = r"ft_live_[A-Za-z0-9_-]+"
CHANGES = {
    "/settings/projects": Scope.ADMIN,
    "/settings/projects/{project}": Scope.ADMIN,
    "/settings/projects/{project}/evaluation": Scope.ADMIN,
    "/settings/projects/{project}/limits": Scope.ADMIN,
    "/settings/projects/{project}/answers": Scope.ADMIN,
    "/settings/projects/{project}/answers/off": Scope.ADMIN,
    "/settings/projects/{project}/archive": Scope.ADMIN,
    "/settings/aliases": Scope.WRITE,
    "/settings/aliases/gpt-4o/rollback": Scope.WRITE,
    "/settings/aliases/gpt-4o/delete": Scope.WRITE,
    "/settings/keys": Scope.ADMIN,
    "/settings/keys/key_x/revoke": Scope.ADMIN,
    "/settings/prices": Scope.ADMIN,
    "/settings/webhooks": Scope.WRITE,
    "/settings/webhooks/{endpoint}": Scope.WRITE,
    "/settings/webhooks/{endpoint}/enable": Scope.WRITE,
    "/settings/webhooks/{endpoint}/disable": Scope.WRITE,
    "/settings/webhooks/{endpoint}/rotate": Scope.WRITE,
    "/settings/webhooks/{endpoint}/test": Scope.WRITE,
    "/settings/webhooks/{endpoint}/delete": Scope.WRITE,
    "/settings/webhooks/{endpoint}/deliveries/whd_x/resend": Scope.WRITE,
    "/settings/people": Scope.ADMIN,
    "/settings/people/grants/grant_x/delete": Scope.ADMIN,
    "/settings/people/user-x/remove": Scope.ADMIN,
    "/settings/people/user-x/readmit": Scope.ADMIN,
    "/settings/worker_tokens": Scope.ADMIN,
    "/settings/worker_tokens/wtok_x/revoke": Scope.ADMIN,
}


class Browser:
    def __init__(self, api: Api, key: str) -> None:
        self._http = httpx.Client(base_url=api.url, follow_redirects=True, verify=False, timeout=20)
        self._csrf = token(self._http.post("/sign-in", data={"key": key}, headers=SAME_SITE))

    def get(self, path: str) -> httpx.Response:
        return self._http.get(path)

    def post(self, path: str, **form: str | list[str]) -> httpx.Response:
        return self._http.post(path, data={"csrf": self._csrf, **form}, headers=SAME_SITE)

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def root(api: Api) -> Iterator[Browser]:
    """Administers the installation."""
    http = installation_admin(api)
    browser = Browser(api, http.headers["authorization"].split()[1])
    http.close()
    yield browser
    browser.close()


@pytest.fixture
def admin(tenant: Tenant) -> Iterator[Browser]:
    """Administers one project."""
    browser = Browser(tenant.api, tenant.new_key(Scope.ADMIN))
    yield browser
    browser.close()


@pytest.fixture
def writer(tenant: Tenant) -> Iterator[Browser]:
    browser = Browser(tenant.api, tenant.key)
    yield browser
    browser.close()


def field_errors(page: httpx.Response) -> dict[str, str]:
    alerts = re.findall(r'id="error-([\w-]*)"[^>]*>([^<]*)<', page.text)
    return {name: unescape(text) for name, text in alerts if text}


def works(tenant: Tenant, key: str) -> bool:
    return (
        httpx.get(
            f"{tenant.api.url}/v1/models", headers={"authorization": f"Bearer {key}"}, verify=False
        ).status_code
        == 200
    )


def test_a_key_is_made_shown_once_and_revoked(admin: Browser, tenant: Tenant) -> None:
    page = admin.post("/settings/keys", name="<i>nightly</i>", scope="read", lifetime="604800")
    assert page.headers["cache-control"] == "no-store"
    secret = re.findall(SECRET, page.text)[0]
    assert works(tenant, secret)
    listed = admin.get("/settings/keys").text
    assert "&lt;i&gt;nightly&lt;/i&gt;" in listed
    assert not re.search(SECRET, listed)
    newest, *others = re.findall(r"/settings/keys/(key_[^/]+)/revoke", listed)
    assert len(others) == 1  # the tenant's; one's own is not offered
    assert "It no longer works" in admin.post(f"/settings/keys/{newest}/revoke").text
    assert not works(tenant, secret)
    assert "No such API key" in admin.post(f"/settings/keys/{newest}/revoke").text


@pytest.mark.parametrize("lifetime", ["soon", "9" * 5000])
def test_a_key_whose_end_cannot_be_read_is_not_made(admin: Browser, lifetime: str) -> None:
    """Rather than one that never ends."""
    page = admin.post("/settings/keys", name="x", scope="read", lifetime=lifetime)
    assert (page.status_code, "Choose an expiry" in page.text) == (400, True)
    assert not re.search(SECRET, page.text)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"name": "", "scope": "read"}, {"name": "This is required."}),
        (
            {"name": "<x>", "scope": "root"},
            {"scope": "Choose one of 'metrics', 'infer', 'read', 'agent', 'write' or 'admin'."},
        ),
        (
            {"name": "x", "scope": "agent"},
            {"daily_budget_usd": 'a key of scope agent needs one, such as "5"'},
        ),
        (
            {"name": "x", "scope": "agent", "daily_budget_usd": "some"},
            {"daily_budget_usd": "Write dollars with at most four decimals, such as 2.50."},
        ),
        (
            {"name": "x", "scope": "read", "project_id": "proj_none", "lifetime": "604800"},
            {"": "project_id: no such project: proj_none"},
        ),
    ],
)
def test_a_key_that_cannot_be_made_is_refused_with_the_reason(
    admin: Browser, form: dict[str, str], says: dict[str, str]
) -> None:
    page = admin.post("/settings/keys", **form)
    assert (page.status_code, field_errors(page)) == (400, says)
    assert page.url.path == "/settings/keys"
    assert f'name="name" required maxlength="100" value="{escape(form["name"])}"' in page.text
    for name in ("lifetime", "scope"):
        if form.get(name, "root") != "root":
            assert f'value="{form[name]}" selected' in page.text
    assert not re.search(SECRET, page.text)


def test_the_admin_of_a_project_sees_that_project_only(admin: Browser, tenant: Tenant) -> None:
    other = Tenant(tenant.api)
    page = admin.get("/settings").text
    assert f"/settings/projects/{tenant.project_id}" in page
    assert other.project_id not in page + admin.get("/settings/keys").text
    assert 'action="/settings/projects"' not in page
    assert "/settings/worker_tokens" not in page
    assert admin.get("/settings/worker_tokens").status_code == 403
    for path in (
        "/settings/projects",
        f"/settings/projects/{tenant.project_id}/limits",
        f"/settings/projects/{tenant.project_id}/archive",
        "/settings/worker_tokens",
        "/settings/worker_tokens/wtok_x/revoke",
    ):
        assert admin.post(path, name="x", weight="2").status_code == 403
    assert admin.post("/settings/prices", device="cpu", usd="1", source="x").status_code == 403
    assert admin.get(f"/settings/projects/{other.project_id}").status_code == 404
    assert admin.post(f"/settings/projects/{other.project_id}", name="mine").status_code == 404
    assert (
        "Project renamed"
        in admin.post(f"/settings/projects/{tenant.project_id}", name="renamed").text
    )


def test_the_admin_of_a_project_decides_whether_its_jobs_are_evaluated(
    admin: Browser, tenant: Tenant
) -> None:
    path = f"/settings/projects/{tenant.project_id}"
    box = '<input type="checkbox" name="evaluate" value="yes"'
    assert f"{box} checked>" in admin.get(path).text
    assert "are not evaluated by themselves" in admin.post(f"{path}/evaluation").text
    assert f"{box}>" in admin.get(path).text
    assert (
        "Jobs that begin from now on are evaluated"
        in admin.post(f"{path}/evaluation", evaluate="yes").text
    )
    other = Tenant(tenant.api)
    admin.post(f"/settings/projects/{other.project_id}/evaluation")
    with tenant.api.database.read() as session:
        assert session.get_one(Project, other.project_id).evaluate
        assert session.get_one(Project, tenant.project_id).evaluate


def test_usage_stands_beside_the_quota(admin: Browser, tenant: Tenant) -> None:
    tenant.job()
    tenant.limit(max_live_jobs=4)
    page = admin.get(f"/settings/projects/{tenant.project_id}").text
    assert re.search(r'of 4</small>\s*<progress max="100" value="25.0"', page)
    assert "no limit" in page
    assert re.search(r"Device hours in 20\d\d-\d\d", page)


def test_the_installation_admin_makes_projects_and_limits_them(root: Browser, api: Api) -> None:
    answer = root.post("/settings/projects", name="research")
    path = answer.url.path
    project_id = path.rpartition("/")[2]
    for refused, typed in (("/settings/projects", " "), (path, "n" * 101)):
        page = root.post(refused, name=typed)
        assert (page.status_code, list(field_errors(page))) == (400, ["name"])
        assert f'value="{typed}"' in page.text
    limits = {
        "weight": "3",
        "requests_per_minute": "",
        "max_live_jobs": "2",
        "max_storage_bytes": "1.5 GB",
        "max_device_hours": "1.5",
        "guaranteed_gpus": "16",
    }
    assert "Limits set" in root.post(f"{path}/limits", **limits).text
    page = root.get(path).text
    for value in ("3", "2", "1500 MB", "1.5", "16"):
        assert f'value="{value}"' in page
    wrong = {"max_live_jobs": "-1", "max_storage_bytes": "10 parsecs", "weight": "5"}
    refused = root.post(f"{path}/limits", **limits | wrong)
    assert refused.status_code == 400
    assert field_errors(refused) == {
        "max_live_jobs": "Write 0 or more.",
        "max_storage_bytes": "Write a size, such as 10 GB, 512 MiB or a number of bytes.",
    }
    for value in wrong.values():
        assert f'value="{value}"' in refused.text
    root.post(f"{path}/limits", **limits | {"max_live_jobs": ""})
    http = installation_admin(api)
    project = http.get(f"/v1/projects/{project_id}").json()
    assert (project["max_live_jobs"], project["max_storage_bytes"]) == (None, 1_500_000_000)
    assert (project["guaranteed_gpus"], project["max_running_gpus"]) == (16, None)
    key = re.findall(
        SECRET, root.post("/settings/keys", name="x", scope="write", project_id=project_id).text
    )[0]
    assert "Project archived" in root.post(f"{path}/archive").text
    assert "archived" in root.get("/settings").text
    assert (
        http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).json()["error"]["code"]
        == "project_archived"
    )
    http.close()


def test_prices_are_set_and_given_back(root: Browser, api: Api) -> None:
    def in_force() -> dict[str, str]:
        with installation_admin(api) as http:
            return {
                price["device"]: price["usd_per_device_hour"]
                for price in http.get("/v1/prices").json()["data"]
                if price["in_force"]
            }

    before = in_force()
    rows: dict[str, str | list[str]] = {
        "device": ["h100", "cpu"],
        "usd": ["1.75", ""],
        "source": ["our contract", ""],
    }
    assert "Prices set" in root.post("/settings/prices", **rows).text
    assert in_force() == before | {"h100": "1.75"}
    page = root.get("/settings/prices").text
    assert 'value="1.75"' in page
    assert 'value="our contract"' in page
    rows = {"device": ["h100", "cpu"], "usd": ["2,5", "0.07"], "source": ["ours", ""]}
    refused = root.post("/settings/prices", **rows)
    errors = field_errors(refused)
    assert (refused.status_code, set(errors)) == (400, {"usd-h100", "source-cpu"})
    assert errors["usd-h100"].startswith("Write dollars")
    assert errors["source-cpu"].startswith("Name the source of the price")
    for value in ("2,5", "0.07", "ours"):
        assert f'value="{value}"' in refused.text
    assert in_force() == before | {"h100": "1.75"}
    root.post("/settings/prices", device="h100", usd="", source="")
    assert in_force() == before


def test_the_lowest_of_other_prices_is_named(root: Browser) -> None:
    row = root.get("/settings/prices").text.partition(">h100</th>")[2].partition("</tr>")[0]
    assert re.findall(r"3, from <span class=\"quantity\">(\$[0-9.]+)", row) == ["$3.99"]


def test_a_webhook_is_made_told_and_told_again(
    writer: Browser, tenant: Tenant, receiver: Receiver
) -> None:
    events = ["fine_tuning.job.cancelled", "fine_tuning.job.failed"]
    page = writer.post("/settings/webhooks", url=receiver.url, name="<i>ours</i>", event=events)
    secret = re.findall(r"whsec_[A-Za-z0-9+/=]{20,}", page.text)[0]
    assert "shown only once" in page.text
    here = re.findall(r'href="(/settings/webhooks/whe_[^"]+)"', page.text)[0]
    assert secret not in writer.get(here).text
    assert "&lt;i&gt;ours&lt;/i&gt;" in writer.get("/settings/webhooks").text
    job_id = tenant.job().id
    tenant.client.fine_tuning.jobs.cancel(job_id)
    wait_for(lambda: "delivered" in writer.get(here).text)
    assert f'href="/jobs/{job_id}"' in writer.get(here).text
    resend = re.findall(r'action="([^"]+/resend)"', writer.get(here).text)[0]
    assert "Event queued for delivery" in writer.post(resend).text
    wait_for(lambda: len(receiver.received) == 2)
    first, second = (request.headers["webhook-id"] for request in receiver.received)
    assert first == second
    assert (
        "answered the sample with 204"
        in writer.post(f"{here}/test", event_type="fine_tuning.job.failed").text
    )
    receiver.answers[0] = 500
    assert (
        'data-tone="bad">The endpoint answered the sample with 500'
        in writer.post(f"{here}/test", event_type="fine_tuning.job.failed").text
    )


def test_a_page_says_that_too_many_webhooks_are_tested(writer: Browser, tenant: Tenant) -> None:
    sample = {"event_type": "fine_tuning.job.failed"}
    with ThreadPoolExecutor(5) as pool, silent_receiver() as url:
        created = tenant.http.post("/v1/webhook_endpoints", json={"url": url})
        path = f"/v1/webhook_endpoints/{created.json()['id']}/test"
        tests = [pool.submit(tenant.http.post, path, json=sample) for _ in range(5)]
        wait_for(lambda: any(test.done() for test in tests))
        page = writer.post(f"/settings/webhooks/{created.json()['id']}/test", **sample)
        assert "4 tests of webhook endpoints wait for an answer" in page.text


def test_a_webhook_is_changed_silenced_and_deleted(
    writer: Browser, tenant: Tenant, receiver: Receiver
) -> None:
    endpoint_id = tenant.http.post("/v1/webhook_endpoints", json={"url": receiver.url}).json()["id"]
    here = f"/settings/webhooks/{endpoint_id}"
    for address in (here, "/settings/webhooks"):
        refused = writer.post(address, url=receiver.url, name="kept")
        assert field_errors(refused) == {"event_types": "Choose at least one."}
        for typed in (receiver.url, "kept"):
            assert f'value="{typed}"' in refused.text
        refused = writer.post(address, url="nowhere", name="kept", event="fine_tuning.job.failed")
        assert (refused.status_code, field_errors(refused)) == (
            400,
            {"url": "Write a whole address, such as https://hooks.example.com/falqon."},
        )
        for typed in ("nowhere", "kept"):
            assert f'value="{typed}"' in refused.text
        assert re.findall(r'value="fine_tuning.job.(\w+)" checked', refused.text) == ["failed"]
    stored = tenant.http.get(f"/v1/webhook_endpoints/{endpoint_id}").json()
    assert (stored["url"], stored["name"] == "kept") == (receiver.url, False)
    assert (
        "Endpoint changed"
        in writer.post(here, url=receiver.url, name="renamed", event="fine_tuning.job.paused").text
    )
    stored = tenant.http.get(f"/v1/webhook_endpoints/{endpoint_id}").json()
    assert (stored["name"], stored["event_types"]) == ("renamed", ["fine_tuning.job.paused"])
    assert "Disabled by a user" in writer.post(f"{here}/disable").text
    assert "enabled from the next event on" in writer.post(f"{here}/enable").text
    new = re.findall(
        r"whsec_[A-Za-z0-9+/=]{20,}", writer.post(f"{here}/rotate", keep_old="yes").text
    )[0]
    assert new not in writer.get(here).text
    assert writer.post(f"{here}/delete").url.path == "/settings/webhooks"
    assert writer.get(here).status_code == 404


def test_the_stream_brings_deliveries(writer: Browser, tenant: Tenant, receiver: Receiver) -> None:
    endpoint_id = tenant.http.post("/v1/webhook_endpoints", json={"url": receiver.url}).json()["id"]
    tenant.client.fine_tuning.jobs.cancel(tenant.job().id)
    with writer._http.stream("GET", f"/settings/webhooks/{endpoint_id}/live") as stream:
        assert next(line for line in stream.iter_lines() if "delivered" in line)
    assert writer.get("/settings/webhooks/whe_none/live").status_code == 404


@pytest.mark.parametrize("scope", [Scope.READ, Scope.WRITE])
def test_settings_beyond_a_keys_scope_are_not_offered_and_refused(
    tenant: Tenant, receiver: Receiver, scope: Scope
) -> None:
    endpoint_id = tenant.http.post("/v1/webhook_endpoints", json={"url": receiver.url}).json()["id"]
    browser = Browser(tenant.api, tenant.new_key(scope))
    pages = (
        "/settings",
        "/settings/prices",
        "/settings/webhooks",
        f"/settings/webhooks/{endpoint_id}",
    )
    offered = {
        action
        for path in pages
        for action in re.findall(r'action="(/settings[^"]*)"', browser.get(path).text)
    }
    assert bool(offered) is (scope is Scope.WRITE)
    assert all(action.startswith("/settings/webhooks") for action in offered)
    assert "/settings/keys" not in browser.get("/settings").text
    for path in ("/settings/keys", f"/settings/projects/{tenant.project_id}"):
        assert browser.get(path).status_code == 403
    for path, needs in CHANGES.items():
        if scope is Scope.READ or needs is Scope.ADMIN:
            answer = browser.post(path.format(project=tenant.project_id, endpoint=endpoint_id))
            assert (
                answer.status_code,
                f"needs an API key with the right &#39;{needs}&#39;" in answer.text,
            ) == (403, True), path
    browser.close()


def test_a_delivery_links_no_job_that_was_deleted(writer: Browser, tenant: Tenant) -> None:
    endpoint = a_delivery(tenant)["webhook_endpoint_id"]
    page = writer.get(f"/settings/webhooks/{endpoint}").text
    assert ("ftjob-1<small>deleted" in page, 'href="/jobs/ftjob-1"' in page) == (True, False)


def test_a_name_is_set_split_put_back_and_deleted(tenant: Tenant, writer: Browser) -> None:
    models = [new_id("ft:tiny:acme::") for _ in range(2)]
    for model in models:
        tenant.add_model(model, project_id=tenant.project_id)
    page = writer.post("/settings/aliases", name="gpt-4o", model=models[0])
    assert f"gpt-4o stands for {models[0]} within a second" in page.text
    tenant.http.post(
        "/v1/aliases",
        json={
            "name": "gpt-4o",
            "models": [{"model": models[1], "weight": 1}, {"model": models[0], "weight": 3}],
        },
    )
    assert "<small>25.0 %</small>" in writer.get("/settings/aliases").text
    page = writer.post("/settings/aliases/gpt-4o/rollback")
    assert f"gpt-4o stands for {models[0]} again" in page.text
    page = writer.post("/settings/aliases", name="gpt 4o", model=models[0])
    assert page.status_code == 400
    assert "name" in field_errors(page)
    assert 'value="gpt 4o"' in page.text
    assert "gpt-4o is deleted" in writer.post("/settings/aliases/gpt-4o/delete").text
    assert "No names yet" in writer.get("/settings/aliases").text
