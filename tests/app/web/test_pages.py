import json
import os
import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from itsdangerous import TimestampSigner
from sqlalchemy import delete, select, update

from app.auth.keys import check_secret
from app.auth.server_secret import server_secret
from app.base.database import now_plus
from app.jobs import claims
from app.models import ApiKey, EndedSession, Scope
from app.models.job_progress import JobProgress
from app.web import assets
from app.web.link import LINK_FILE, issue
from app.web.rendering import SCREENS
from app.web.session import MAX_AGE_SECONDS, SESSION_COOKIE, SESSION_ID
from tests.browser import scene
from tests.contract.test_jobs import COST, PROGRESS
from tests.support.api import Api, Tenant
from tests.support.pages import SAME_SITE, sign_in, token

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)


@pytest.fixture
def browser(api: Api) -> Iterator[httpx.Client]:
    """Not signed in yet."""
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False) as client:
        yield client


def test_jobs_are_shown_to_who_signed_in(browser: httpx.Client, tenant: Tenant) -> None:
    job = tenant.job(suffix="mine")
    other = Tenant(tenant.api).job()
    claim = tenant.claim(job.id)
    with tenant.api.database.transaction() as session:
        claims.append_events(
            session, claim, [], progress=JobProgress.model_validate(PROGRESS | {"cost": COST})
        )
    assert job.id not in browser.get("/").text
    page = sign_in(browser, tenant)
    assert page.url.path == "/"
    for text in (
        job.id,
        tenant.base_model,
        "running",
        "step 4 of 10",
        "1 min 00 s",
        "$0.0100",
        "$0.0250",
        'hx-sse:connect="/live?"',
    ):
        assert text in page.text
    assert other.id not in page.text
    tenant.client.fine_tuning.jobs.cancel(job.id)
    assert "cancelling" in browser.get("/").text


def test_the_cookie_holds_the_key_id_and_ends_with_the_key(
    browser: httpx.Client, tenant: Tenant
) -> None:
    cookie = sign_in(browser, tenant).history[0].headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "Sign out" in browser.get("/").text
    assert browser.get("/v1/models").status_code == 401
    with tenant.api.database.transaction() as session:
        session.execute(
            update(ApiKey)
            .where(ApiKey.project_id == tenant.project_id)
            .values(revoked_at=now_plus())
        )
    assert "Sign out" not in browser.get("/").text


def test_signing_out_ends_the_session_and_not_only_the_cookie(
    browser: httpx.Client, tenant: Tenant, api: Api
) -> None:
    csrf = token(sign_in(browser, tenant))
    cookie = {"cookie": f"{SESSION_COOKIE}={browser.cookies[SESSION_COOKIE]}"}
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False) as other:
        assert "Sign out" in sign_in(other, tenant).text
        assert (
            browser.post("/sign-out", data={"csrf": csrf}, headers=SAME_SITE).url.path == "/sign-in"
        )
        assert "Sign out" in other.get("/").text, "another session of the same key goes on"
    # another process with the same secret
    elsewhere = Api(api.settings.resolved_database_url, api.settings.data_dir)
    try:
        for url in (api.url, elsewhere.url):
            for path, refusal in (("/", 303), ("/live?", 401), ("/settings/keys", 303)):
                assert httpx.get(url + path, headers=cookie, verify=False).status_code == refusal, (
                    path
                )
            again = httpx.post(
                f"{url}/sign-out", data={"csrf": csrf}, headers=cookie | SAME_SITE, verify=False
            )
            assert again.status_code == 303
    finally:
        elsewhere.stop()


def test_ended_sessions_are_kept_as_long_as_their_cookies(
    browser: httpx.Client, tenant: Tenant, api: Api
) -> None:
    with api.database.transaction() as session:
        session.execute(delete(EndedSession))
        session.add(EndedSession(id="sess_old", ended_at=now_plus(-MAX_AGE_SECONDS - 10)))
        session.add(EndedSession(id="sess_young", ended_at=now_plus(-MAX_AGE_SECONDS + 60)))
    browser.post("/sign-out", data={"csrf": token(sign_in(browser, tenant))}, headers=SAME_SITE)
    with api.database.read() as session:
        left = session.scalars(select(EndedSession.id)).all()
    assert ("sess_old" in left, "sess_young" in left, len(left)) == (False, True, 2)


def test_a_cookie_that_names_no_session_opens_nothing(
    browser: httpx.Client, tenant: Tenant, api: Api
) -> None:
    """As those before sessions had ids: nobody could end it."""
    sign_in(browser, tenant)
    signer = TimestampSigner(server_secret(api.settings))
    content = json.loads(b64decode(signer.unsign(browser.cookies[SESSION_COOKIE])))
    for left_out, is_signed_in in (("nothing", True), (SESSION_ID, False)):
        remaining = {name: value for name, value in content.items() if name != left_out}
        signed = signer.sign(b64encode(json.dumps(remaining).encode())).decode()
        page = httpx.get(
            f"{api.url}/",
            headers={"cookie": f"{SESSION_COOKIE}={signed}"},
            verify=False,
            follow_redirects=True,
        )
        assert ("Sign out" in page.text) is is_signed_in


def test_a_form_of_another_session_changes_nothing(
    browser: httpx.Client, tenant: Tenant, api: Api
) -> None:
    sign_in(browser, tenant)
    with httpx.Client(base_url=api.url, follow_redirects=True, verify=False) as other:
        csrf = token(sign_in(other, tenant))
    for forged in ({}, {"csrf": ""}, {"csrf": csrf}):
        answer = browser.post("/sign-out", data=forged, headers=SAME_SITE)
        assert answer.status_code == 403
        assert "out of date" in answer.text
    assert "Sign out" in browser.get("/").text


def test_a_key_that_only_asks_models_does_not_sign_in(
    browser: httpx.Client, tenant: Tenant
) -> None:
    key = tenant.new_key(Scope.INFER)
    page = browser.post("/sign-in", data={"key": key}, headers=SAME_SITE)
    assert page.status_code == 403
    assert "the right &#39;read&#39;; yours has &#39;infer&#39;" in page.text
    assert browser.get("/").url.path == "/sign-in"


def test_a_page_asked_for_is_shown_after_signing_in(browser: httpx.Client, tenant: Tenant) -> None:
    form = browser.get("/?status=failed")
    assert (form.url.path, "API key" in form.text) == ("/sign-in", True)
    back = re.findall(r'name="next" value="([^"]+)"', form.text)[0]
    page = browser.post("/sign-in", data={"key": tenant.key, "next": back}, headers=SAME_SITE)
    assert page.url.raw_path == b"/?status=failed"
    for elsewhere in (
        "//evil.example",
        "/\\evil.example",
        "https://evil.example",
        "/\n/evil.example",
    ):
        page = browser.post(
            "/sign-in", data={"key": tenant.key, "next": elsewhere}, headers=SAME_SITE
        )
        assert page.url.raw_path == b"/"


def test_a_link_signs_in_once(browser: httpx.Client, tenant: Tenant, api: Api) -> None:
    with api.database.read() as session:
        key_id = check_secret(session, tenant.key).key_id
    folder = api.settings.data_dir.resolve()
    replaced = issue(folder, key_id)
    link = issue(folder, key_id)
    for wrong in ("nonsense", replaced):
        assert browser.get(f"/sign-in?link={wrong}").status_code == 401
    assert browser.head(f"/sign-in?link={link}").status_code == 200
    assert "Sign out" in browser.get(f"/sign-in?link={link}").text
    browser.cookies.clear()
    assert browser.get(f"/sign-in?link={link}").status_code == 401
    link = issue(folder, key_id)
    os.utime(folder / LINK_FILE, (0, 0))
    assert browser.get(f"/sign-in?link={link}").status_code == 401
    assert not (folder / LINK_FILE).exists()


def test_a_wrong_key_and_a_forged_cookie_get_nothing(browser: httpx.Client) -> None:
    answer = browser.post("/sign-in", data={"key": "nonsense"}, headers=SAME_SITE)
    assert (answer.status_code, "set-cookie" in answer.headers) == (401, False)
    assert 'role="alert"' in answer.text
    browser.cookies.set("falqon_session", "eyJrZXlfaWQiOiAia2V5X3gifQ==.x.y")
    assert "Sign out" not in browser.get("/").text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"referer": "http://127.0.0.1/"},
    ],
)
def test_forms_of_other_sites_change_nothing(
    browser: httpx.Client, tenant: Tenant, headers: dict[str, str]
) -> None:
    """Every route that could and looks at the cookie: what is added later is asked too. /v1 and
    /hub take API keys alone.
    """
    sign_in(browser, tenant)
    changing = [
        (method, path)
        for path, methods in routes(tenant.api.app)
        if not path.startswith(("/v1/", "/hub/"))
        for method in methods - {"GET", "HEAD", "OPTIONS"}
    ]
    assert {path for _, path in changing} >= {"/sign-in", "/sign-out"}
    for method, path in changing:
        assert (
            browser.request(method, path, data={"key": tenant.key}, headers=headers).status_code
            == 403
        ), path
    assert "Sign out" in browser.get("/").text


def routes(app: FastAPI) -> list[tuple[str, set[str]]]:
    return [
        (context.path, set(context.methods))
        for context in iter_route_contexts(app.routes)
        if context.path and context.methods
    ]


def test_a_browser_that_only_sends_the_origin_is_let_in(
    browser: httpx.Client, tenant: Tenant
) -> None:
    page = browser.post("/sign-in", data={"key": tenant.key}, headers={"origin": tenant.api.url})
    assert "Sign out" in page.text


def test_pages_allow_nothing_from_elsewhere_and_nothing_inline(
    browser: httpx.Client, tenant: Tenant
) -> None:
    for page in (browser.get("/"), sign_in(browser, tenant), browser.get("/docs")):
        policy = page.headers.get_list("content-security-policy")
        assert len(policy) == 1
        assert policy[0].startswith(POLICY)
        assert policy[0].removeprefix(POLICY) in ("", "; font-src 'self' data:")
        assert page.headers.get_list("x-content-type-options") == ["nosniff"]
        assert page.headers.get_list("referrer-policy") == ["same-origin"]
        assert not re.search(
            r"<script(?![^>]*\bsrc=)|<style|\son\w+=|\sstyle=|https?://", page.text
        )
        for asset in re.findall(
            r'(?:src|href)="(/(?:static|assets|docs/assets)/[^"]+)"', page.text
        ):
            assert browser.get(asset).status_code == 200


def test_docs_say_how_to_get_their_assets(
    browser: httpx.Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(assets, "PACKAGES_FOLDER", tmp_path)
    page = browser.get("/docs")
    assert page.status_code == 503
    assert "make assets" in page.text
    form = browser.get("/sign-in")
    assert (form.status_code, "make assets" in form.text) == (200, True)


def test_strangers_cannot_fill_the_disk_with_a_form(browser: httpx.Client) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="key"; filename="a"\r\n\r\n'
    multipart = SAME_SITE | {"content-type": "multipart/form-data; boundary=x"}
    for content in (
        head + bytes(2**20),
        iter([head, *(bytes(2**16) for _ in range(16))]),
    ):  # with a length, and in chunks
        assert browser.post("/sign-in", content=content, headers=multipart).status_code == 413
    assert browser.post("/sign-in", data={"key": "k" * 2**15}, headers=SAME_SITE).status_code == 413


def test_no_id_stands_on_a_page_twice(browser: httpx.Client, tenant: Tenant) -> None:
    objects = scene.scene(tenant)
    browser.post("/sign-in", data={"key": tenant.new_key(Scope.ADMIN)}, headers=SAME_SITE)
    for path in (
        *(screen.path for screen in SCREENS),
        f"/jobs/{objects.succeeded}",
        f"/data/{objects.file}",
        f"/models/{objects.model}",
        "/answers",
        "/settings/aliases",
        "/settings/keys",
        "/settings/prices",
        "/settings/webhooks",
        "/activity",
        "/search?q=o",
    ):
        ids = re.findall(r'\sid="([^"]+)"', browser.get(path).text)
        assert ids.count("main") == 1, path
        assert {id_ for id_ in ids if ids.count(id_) > 1} == set(), path
