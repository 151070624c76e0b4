"""Sign-in through an identity provider, and everything that must not get in by it."""

import base64
import hmac
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import ECKey
from sqlalchemy import select, update

from app.auth.keys import find_caller
from app.auth.oidc import provider as oidc
from app.base.errors import Forbidden
from app.keys import service as keys
from app.keys.schemas import KeyRequest
from app.models import DEFAULT_PROJECT_ID, ApiKey, AuditLog, Scope, User
from tests.app.web.test_project_switch import others, project_name
from tests.support.admin import falqon_admin
from tests.support.api import Api, Tenant, installation_admin
from tests.support.identity_provider import (
    CLIENT_ID,
    IdentityProvider,
    new_key,
    serving_identities,
    sign,
)
from tests.support.pages import SAME_SITE, token
from tests.support.waiting import wait_for

START = "/sign-in/oidc"
GRANTS = "/v1/organization/group_grants"
USERS = "/v1/organization/users"


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    with serving_identities() as provider:
        yield provider


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, provider: IdentityProvider) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("sso")
    api = Api(f"sqlite:///{folder / 'falqon.db'}", folder, **provider.settings)
    yield api
    api.stop()


@pytest.fixture(autouse=True)
def honest(provider: IdentityProvider) -> None:
    provider.changes, provider.forge = {}, None
    provider.token_body, provider.is_down = None, False


@pytest.fixture(scope="module")
def root(api: Api) -> Iterator[httpx.Client]:
    with installation_admin(api) as http:
        yield http


@pytest.fixture
def team(api: Api, root: httpx.Client) -> Iterator[Tenant]:
    """A project that the group of its own name opens for writing."""
    tenant = Tenant(api)
    grant(root, tenant.project_id, tenant.project_id, "write")
    yield tenant
    tenant.http.close()


def grant(root: httpx.Client, group: str, project_id: str, scope: str) -> str:
    body = {"group": group, "project_id": project_id, "scope": scope}
    answer = root.post(GRANTS, json=body)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def a_browser(api: Api) -> httpx.Client:
    return httpx.Client(base_url=api.url, follow_redirects=True, verify=False, timeout=20)


@pytest.fixture
def browser(api: Api) -> Iterator[httpx.Client]:
    with a_browser(api) as browser:
        yield browser


def callback_of(browser: httpx.Client, path: str = START) -> str:
    """Go to the provider and return the address that it leads back to."""
    there = browser.get(path, follow_redirects=False)
    assert there.status_code == 303, there.text
    back = httpx.get(there.headers["location"], verify=False)
    assert back.status_code == 302
    return back.headers["location"]


def is_signed_in(page: httpx.Response) -> bool:
    return "Sign out" in page.text


def refusal(page: httpx.Response) -> str:
    assert not is_signed_in(page)
    (text,) = re.findall(r'role="alert">([^<]+)<', page.text)
    return str(text)


def user_of(root: httpx.Client, subject: str) -> dict[str, Any]:
    users = root.get(USERS, params={"limit": 100}).json()["data"]
    (user,) = [user for user in users if user["subject"] == subject]
    return dict(user)


def test_a_person_signs_in_to_the_project_of_their_group_and_is_named_in_the_audit_log(
    api: Api, browser: httpx.Client, provider: IdentityProvider, team: Tenant, root: httpx.Client
) -> None:
    job = team.job().id
    provider.be("bo", team.project_id, "unknown to us")
    link = re.findall(
        r'href="(/sign-in/oidc[^"]*)"[^>]*>Sign in with\s+Acme<', browser.get(f"/jobs/{job}").text
    )
    page = browser.get(link[0])
    assert (page.url.path, is_signed_in(page)) == (f"/jobs/{job}", True)
    cancelled = browser.post(f"/jobs/{job}/cancel", data={"csrf": token(page)}, headers=SAME_SITE)
    assert cancelled.status_code == 200
    user = user_of(root, "bo")
    logs = root.get("/v1/organization/audit_logs", params={"actor_ids": [user["id"]]}).json()
    assert [log["type"] for log in logs["data"]] == ["job.cancelled", "login.succeeded"]
    actor = logs["data"][0]["actor"]
    named = {"id": user["id"], "email": "bo@example.com", "subject": "bo"}
    assert (actor["type"], actor["session"]["user"]) == ("session", named)
    assert (actor["api_key"]["type"], actor["api_key"]["user"]) == ("user", named)
    # scope of the group, and no more
    assert browser.get("/settings/keys").status_code == 403
    browser.post("/sign-out", data={"csrf": token(browser.get("/"))}, headers=SAME_SITE)
    assert not is_signed_in(browser.get("/"))
    with api.database.read() as session:
        keys = session.scalars(select(ApiKey).where(ApiKey.user_id == user["id"])).all()
    assert all(key.revoked_at for key in keys), "a copy of the cookie opens nothing either"


def test_a_person_of_several_projects_chooses_among_them_and_no_others(
    api: Api, browser: httpx.Client, provider: IdentityProvider, team: Tenant, root: httpx.Client
) -> None:
    second, foreign = Tenant(api), Tenant(api)
    for tenant, name in ((team, "desk"), (second, "law")):
        root.post(f"/v1/projects/{tenant.project_id}", json={"name": name})
    grant(root, "readers", second.project_id, "read")
    grant(root, "admins", second.project_id, "admin")
    provider.be("kim", "readers", "admins", team.project_id)
    page = browser.get(f"{START}?next=/models")
    assert page.url.path == "/project"
    choices = {
        name: key
        for key, name in re.findall(
            r'name="key" value="([^"]+)">.*?<button[^>]*>([^<]+)<', page.text, re.DOTALL
        )
        if ", to " in name
    }
    assert list(choices) == ["desk, to write", "law, to admin"]
    form = {"csrf": token(page), "key": choices["law, to admin"], "next": "/models"}
    page = browser.post("/project", data=form, headers=SAME_SITE)
    assert (page.url.path, project_name(page), list(others(page))) == ("/models", "law", ["desk"])
    with api.database.read() as session:
        foreign_key = session.scalars(
            select(ApiKey.id).where(ApiKey.project_id == foreign.project_id)
        ).first()
    form = {"csrf": token(page), "key": str(foreign_key)}
    page = browser.post("/project", data=form, headers=SAME_SITE)
    assert "no longer works" in page.text
    for tenant in (second, foreign):
        tenant.http.close()


def admin_with_a_key(
    browser: httpx.Client, provider: IdentityProvider, root: httpx.Client, team: Tenant, name: str
) -> str:
    """Sign in as an admin of the team, and make an API key there."""
    grant(root, f"{name}'s", team.project_id, "admin")
    provider.be(name, f"{name}'s")
    page = browser.get(START)
    form = {"csrf": token(page), "name": "nightly", "scope": "write"}
    made = browser.post("/settings/keys", data=form, headers=SAME_SITE)
    return str(re.findall(r"ft_live_\w+", made.text)[0])


def opens(api: Api, key: str) -> bool:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.get(f"{api.url}/v1/models", headers=headers, verify=False).status_code == 200


def test_a_removed_person_loses_sessions_and_keys_at_once_until_readmitted(
    api: Api, browser: httpx.Client, provider: IdentityProvider, team: Tenant, root: httpx.Client
) -> None:
    key = admin_with_a_key(browser, provider, root, team, "lee")
    assert opens(api, key)
    user = user_of(root, "lee")
    (listed,) = [
        each
        for each in root.get("/v1/api_keys", params={"limit": 1000}).json()["data"]
        if each["user_id"] == user["id"]
    ]
    assert listed["name"] == "nightly", "keys of sign-ins are not listed"
    answer = root.delete(f"{USERS}/{user['id']}")
    assert answer.json() == {
        "id": user["id"],
        "object": "organization.user.deleted",
        "deleted": True,
    }
    assert not opens(api, key)
    assert browser.get("/").url.path == "/sign-in"
    assert "was removed" in refusal(browser.get(START))
    assert user_of(root, "lee")["status"] == "removed"
    assert root.post(f"{USERS}/{user['id']}/readmit").json()["status"] == "active"
    assert is_signed_in(browser.get(START))
    assert not opens(api, key)
    assert opens(api, team.key), "keys of the project stay"


def test_a_person_who_is_removed_meanwhile_makes_no_key(
    api: Api, browser: httpx.Client, provider: IdentityProvider, team: Tenant, root: httpx.Client
) -> None:
    admin_with_a_key(browser, provider, root, team, "mel")
    user = user_of(root, "mel")
    services = api.app.state.services
    with api.database.read() as session:
        key = session.scalars(select(ApiKey.id).where(ApiKey.user_id == user["id"])).first()
        caller = find_caller(session, str(key))
    assert caller is not None
    root.delete(f"{USERS}/{user['id']}")
    with pytest.raises(Forbidden, match="was removed"):
        keys.create_key(services, caller, KeyRequest(name="last", scope=Scope.ADMIN))


def test_a_person_is_removed_on_the_machine_itself(
    api: Api, browser: httpx.Client, provider: IdentityProvider, team: Tenant
) -> None:
    provider.be("oz", team.project_id)
    assert is_signed_in(browser.get(START))
    environment = {"FALQON_DATA_DIR": str(api.settings.data_dir)}
    listed = falqon_admin(environment, "users", "list").stdout
    assert re.search(r"^user-\w+  oz@example.com  active  ", listed, re.MULTILINE)
    assert falqon_admin(environment, "users", "remove", "oz@example.com").exit_code == 0
    assert not is_signed_in(browser.get("/"))
    assert "was removed" in refusal(browser.get(START))
    assert falqon_admin(environment, "users", "readmit", "oz").exit_code == 0
    assert is_signed_in(browser.get(START))
    assert "No such user: nobody" in falqon_admin(environment, "users", "remove", "nobody").output


def test_a_sign_in_without_a_group_ends_what_the_group_gave(
    api: Api, browser: httpx.Client, provider: IdentityProvider, team: Tenant, root: httpx.Client
) -> None:
    key = admin_with_a_key(browser, provider, root, team, "mia")
    grant(root, "mere readers", team.project_id, "read")
    provider.be("mia", "mere readers")
    with a_browser(api) as another:
        assert is_signed_in(another.get(START))
        assert not opens(api, key), "it may write, and its owner may not any more"
        assert not is_signed_in(browser.get("/"))
        user = user_of(root, "mia")
        with api.database.read() as session:
            (row,) = session.scalars(
                select(AuditLog).where(
                    AuditLog.user_id == user["id"], AuditLog.event_type == "api_key.deleted"
                )
            )
        assert row.key_id == row.resource_id
        provider.be("mia", "elsewhere")
        assert "opens no project" in refusal(a_sign_in(api))
        assert not is_signed_in(another.get("/"))


def test_keys_that_an_installation_admin_makes_for_other_projects_end_with_that_right(
    api: Api, browser: httpx.Client, provider: IdentityProvider, team: Tenant, root: httpx.Client
) -> None:
    grant(root, "operators", DEFAULT_PROJECT_ID, "admin")
    grant(root, "their readers", DEFAULT_PROJECT_ID, "read")
    provider.be("abe", "operators")
    assert is_signed_in(browser.get(START))
    with api.database.read() as session:
        own = select(ApiKey.id).where(ApiKey.user_id == user_of(root, "abe")["id"])
        caller = find_caller(session, session.scalars(own).one())
    assert caller is not None
    services = api.app.state.services
    request = KeyRequest(name="nightly", scope=Scope.WRITE, project_id=team.project_id)
    key = keys.create_key(services, caller, request).secret
    assert is_signed_in(a_sign_in(api))
    assert opens(api, key), "the right that it was made by still stands"
    provider.be("abe", "their readers")
    assert is_signed_in(a_sign_in(api))
    assert not opens(api, key)


def a_sign_in(api: Api) -> httpx.Response:
    with a_browser(api) as browser:
        return browser.get(START)


def test_a_session_ends_when_its_time_is_over(
    api: Api, browser: httpx.Client, provider: IdentityProvider, team: Tenant
) -> None:
    provider.be("noa", team.project_id)
    assert is_signed_in(browser.get(START))
    with api.database.transaction() as session:
        session.execute(
            update(ApiKey)
            .where(ApiKey.project_id == team.project_id, ApiKey.sign_in_id.is_not(None))
            .values(expires_at=ApiKey.created_at)
        )
    assert not is_signed_in(browser.get("/"))


def test_an_answer_counts_once_and_only_in_the_browser_that_asked(
    api: Api, browser: httpx.Client, provider: IdentityProvider, team: Tenant
) -> None:
    provider.be("ola", team.project_id)
    callback = callback_of(browser)
    with a_browser(api) as victim:
        assert "not begun in this browser" in refusal(victim.get(callback))
        # nor in one that has begun another
        callback_of(victim)
        assert "not begun in this browser" in refusal(victim.get(callback))
    before = dict(browser.cookies)
    assert browser.head(callback, follow_redirects=False).status_code == 303
    browser.cookies.clear()
    browser.cookies.update(before)
    assert is_signed_in(browser.get(callback))
    with a_browser(api) as copy:
        copy.cookies.update(before)
        assert "refused this sign-in" in refusal(copy.get(callback)), "the code was used"
    assert "not begun" in refusal(browser.get(callback))


def test_a_token_of_another_sign_in_of_the_same_browser_is_refused(
    browser: httpx.Client, provider: IdentityProvider, team: Tenant
) -> None:
    provider.be("pia", team.project_id)
    first, second = callback_of(browser), callback_of(browser)
    states = [parse_qs(urlsplit(url).query)["state"][0] for url in (first, second)]
    crossed = first.replace(states[0], states[1])
    assert "refused this sign-in" in refusal(browser.get(crossed)), "PKCE binds code and state"
    nonces = [request["nonce"] for request in provider._codes.values()]
    provider.changes = {"nonce": nonces[0]}
    assert "another sign-in" in refusal(browser.get(START))


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "another service"},
        {"aud": [CLIENT_ID, "another"], "azp": "another"},
        {"aud": None},
        {"iss": "https://evil.example.com"},
        {"exp": int(time.time()) - 120},
        {"exp": None},
        {"exp": float("nan")},
        {"iat": int(time.time()) + 3600},
        {"sub": None},
        {"sub": 7},
    ],
    ids=",".join,  # Times would give each process of the suite other names.
)
def test_a_token_that_is_not_for_this_service_now_is_refused(
    api: Api, provider: IdentityProvider, team: Tenant, changes: dict[str, object]
) -> None:
    provider.be("quin", team.project_id)
    provider.changes = changes
    assert "is not valid for this service" in refusal(a_sign_in(api))


def test_a_token_is_signed_by_the_provider_with_a_key_that_only_it_has(
    api: Api, provider: IdentityProvider, team: Tenant
) -> None:
    provider.be("ray", team.project_id)
    forged, published = new_key(), provider.keys[0]
    under_its_id = ECKey.import_key(forged.as_pem(private=True), {"kid": str(published.kid)})
    public = published.as_pem(private=False)
    forgeries: dict[str, Callable[[dict[str, object]], str]] = {
        "unpublished key": lambda claims: sign(claims, forged),
        "id of a published key": lambda claims: sign(claims, under_its_id),
        "no signature": lambda claims: unsigned("none", claims) + ".",
        "public key as a shared secret": lambda claims: with_secret(
            unsigned("HS256", claims, published.kid), public
        ),
    }
    for name, forge in forgeries.items():
        provider.forge = forge
        assert "is not valid for this service" in refusal(a_sign_in(api)), name


def unsigned(alg: str, claims: dict[str, object], kid: str | None = None) -> str:
    parts = ({"alg": alg} | ({"kid": kid} if kid else {}), claims)
    return ".".join(encoded(json.dumps(part).encode()) for part in parts)


def with_secret(unsigned: str, secret: bytes) -> str:
    return f"{unsigned}.{encoded(hmac.digest(secret, unsigned.encode(), 'sha256'))}"


def encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def test_a_rotated_key_is_fetched_once(api: Api, provider: IdentityProvider, team: Tenant) -> None:
    provider.be("sam", team.project_id)
    assert is_signed_in(a_sign_in(api))
    num_fetched = provider.num_fetched
    provider.keys = [new_key(), *provider.keys]
    assert is_signed_in(a_sign_in(api))
    assert is_signed_in(a_sign_in(api))
    assert provider.num_fetched == num_fetched + 1


@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"groups": {"a": "b"}}, "is not a list of names"),
        ({"groups": [1, 2]}, "is not a list of names"),
        ({"groups": True}, "is not a list of names"),
        ({"groups": [str(n) for n in range(5_001)]}, "more than 5,000 groups"),
        ({"groups": ["x" * 60_000, "y" * 80_000]}, "is not valid for this service"),
        ({"groups": None, "_claim_names": {"groups": "src1"}}, "there are too many"),
        ({"groups": None}, "opens no project"),
        ({"sub": "s" * 256}, "subject is too long"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_groups_that_cannot_be_read_open_nothing(
    api: Api, provider: IdentityProvider, claims: dict[str, object], says: str
) -> None:
    provider.be("tim", **claims)
    assert says in refusal(a_sign_in(api))
    with api.database.read() as session:
        assert session.scalars(select(User).where(User.subject == "tim")).all() == []


@pytest.mark.parametrize(
    "next_page", ["https://evil.example.com/", "//evil.example.com", "/\\evil", "/" + "a" * 400]
)
def test_a_sign_in_leads_to_no_other_site(
    browser: httpx.Client, provider: IdentityProvider, team: Tenant, next_page: str
) -> None:
    provider.be("uma", team.project_id)
    there = browser.get(START, params={"next": next_page}, follow_redirects=False)
    back = httpx.get(there.headers["location"], verify=False).headers["location"]
    assert browser.get(back, follow_redirects=False).headers["location"] == "/"


def test_an_unavailable_provider_is_said_and_keys_still_work(
    provider: IdentityProvider, team: Tenant, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("down")
    provider.is_down = True
    api = Api(f"sqlite:///{folder / 'falqon.db'}", folder, **provider.settings)
    tenant = Tenant(api)
    with a_browser(api) as browser:
        page = browser.get(START)
        assert (page.status_code, "does not answer" in refusal(page)) == (503, True)
        assert is_signed_in(browser.post("/sign-in", data={"key": tenant.key}, headers=SAME_SITE))
        # It is asked again after a while only, so that requests do not pile up behind timeouts.
        provider.is_down = False
        num_fetched = provider.num_fetched
        assert browser.get(START).status_code == 503
        assert provider.num_fetched == num_fetched
        fetching = api.app.state.services.provider
        fetching._failed_at -= oidc.RETRY_SECONDS
        assert callback_of(browser)
    tenant.http.close()
    api.stop()


def test_a_silent_token_endpoint_holds_few_threads_and_is_left_alone_for_a_while(
    provider: IdentityProvider,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    num_visitors = 3 * oidc.EXCHANGES_AT_ONCE
    monkeypatch.setattr(oidc, "TIMEOUT_SECONDS", 8.0)
    folder = tmp_path_factory.mktemp("silent")
    api = Api(f"sqlite:///{folder / 'falqon.db'}", folder, **provider.settings)
    with ExitStack() as stack:
        stack.callback(api.stop)
        stack.callback(provider.answers_tokens.set)
        browsers = [stack.enter_context(a_browser(api)) for _ in range(num_visitors + 1)]
        last, *visitors = [(browser, callback_of(browser)) for browser in browsers]
        before = provider.num_exchanges
        provider.answers_tokens.clear()
        with ThreadPoolExecutor(num_visitors) as pool:
            answers = [pool.submit(browser.get, callback) for browser, callback in visitors]
            # Those without a thread to wait in are refused while the others wait.
            num_refused = num_visitors - oidc.EXCHANGES_AT_ONCE
            wait_for(lambda: sum(answer.done() for answer in answers) == num_refused)
            wait_for(lambda: provider.num_exchanges == before + oidc.EXCHANGES_AT_ONCE)
        assert [answer.result().status_code for answer in answers] == [503] * num_visitors
        assert "does not answer" in refusal(last[0].get(last[1]))
        assert provider.num_exchanges == before + oidc.EXCHANGES_AT_ONCE, "not asked again so soon"
        provider.answers_tokens.set()
        api.app.state.services.provider._failed_at -= oidc.RETRY_SECONDS
        provider.be("wes", "elsewhere")
        assert "opens no project" in refusal(last[0].get(START)), "it is asked again"


@pytest.mark.parametrize("body", [b"[]", b"<html>", b"{}", b'{"id_token": 7}', b" " * 2**21])
def test_a_broken_answer_of_the_provider_is_its_failure(
    api: Api, provider: IdentityProvider, team: Tenant, body: bytes
) -> None:
    provider.be("vic", team.project_id)
    provider.token_body = body
    page = a_sign_in(api)
    assert (page.status_code, "does not answer" in refusal(page)) == (503, True)


def test_a_refusal_of_the_provider_is_shown_as_text(api: Api, browser: httpx.Client) -> None:
    callback = urlsplit(callback_of(browser))
    state = parse_qs(callback.query)["state"][0]
    page = browser.get(callback.path, params={"state": state, "error": "<script>denied"})
    assert "answered &#39;&lt;script&gt;denied&#39;" in refusal(page)


def test_a_scope_of_a_group_is_set_replaced_and_deleted(
    api: Api, root: httpx.Client, team: Tenant
) -> None:
    first = grant(root, "a group", team.project_id, "read")
    assert grant(root, "a group", team.project_id, "admin") == first
    listed = {each["id"]: each for each in root.get(GRANTS).json()["data"]}
    assert listed[first]["scope"] == "admin"
    assert root.delete(f"{GRANTS}/{first}").json()["deleted"]
    assert root.delete(f"{GRANTS}/{first}").status_code == 404
    with a_browser(api) as browser:
        key = root.headers["authorization"].removeprefix("Bearer ")
        browser.post("/sign-in", data={"key": key}, headers=SAME_SITE)
        page = browser.get("/settings/people").text
    offered = re.findall(r'value="(\w+)"', page.partition('id="scope"')[2])
    assert offered == ["read", "write", "admin"]
    for scope in ("infer", "agent", "owner"):
        body = {"group": "g", "project_id": team.project_id, "scope": scope}
        assert root.post(GRANTS, json=body).status_code == 400
