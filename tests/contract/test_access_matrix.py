"""Every route, asked by everybody: the owner, another project, for what is deleted or never was,
with too low a scope, without a key.

A route that has no line in `ROUTES`, `OF_WORKERS` or `PUBLIC` fails the first test. To add one: its
scope, how to make what its path names (`make`, which returns the path's parameters), how to delete
that (`remove`), and what to send.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import httpx
import pytest

from app.models import Scope
from app.web import pages
from tests.contract.access_objects import Parameters, without_key
from tests.contract.access_routes import (
    ADMIN,
    AGENT,
    INFER,
    METRICS,
    OF_WORKERS,
    PUBLIC,
    READ,
    ROUTES,
    WRITE,
    Route,
)
from tests.support.api import PATIENCE, Api, Tenant, installation_admin

NO_IDS = {"name", "kind", "revision", "folder", "path"}
LOWER = {INFER: METRICS, READ: INFER, AGENT: READ, WRITE: AGENT, ADMIN: WRITE}


every_route = pytest.mark.parametrize(("method", "path"), sorted(ROUTES), ids=lambda part: part)


class Tenants(NamedTuple):
    own: Tenant
    other: Tenant
    keys: dict[Scope, str]  # of the project of `own`
    revoked: str
    installation: str

    def ask(
        self, key: str | None, method: str, path: str, parameters: Parameters, **sent: Any
    ) -> httpx.Response:
        for name, value in parameters.items():
            path = path.replace(f"{{{name}:path}}", value).replace(f"{{{name}}}", value)
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.request(
            method, self.own.api.url + path, headers=headers, verify=False, timeout=PATIENCE, **sent
        )

    def key_for(self, route: Route) -> str:
        return self.installation if route.by_installation else self.keys[route.scope]


@pytest.fixture(scope="module")
def tenants(api: Api) -> Iterator[Tenants]:
    own = Tenant(api)
    other = Tenant(api)
    revoked = own.new_key(ADMIN)
    without_key(own, {"key_id": f"key_{revoked.removeprefix('ft_live_').partition('_')[0]}"})
    with installation_admin(api) as client:
        installation = client.headers["authorization"].removeprefix("Bearer ")
    yield Tenants(own, other, {scope: own.new_key(scope) for scope in Scope}, revoked, installation)
    own.http.close()
    other.http.close()


def routes_of(routes: Sequence[Any], prefix: str = "") -> set[tuple[str, str]]:
    collected = set()
    for entry in routes:
        included = getattr(entry, "original_router", None)
        if included is not None:
            collected |= routes_of(included.routes, prefix + entry.include_context.prefix)
        else:
            collected |= {
                (method, prefix + entry.path) for method in getattr(entry, "methods", None) or {"*"}
            }  # a mount answers all of them
    return collected


def code_of(response: httpx.Response) -> str | None:
    return response.json()["error"]["code"] if response.content else None


def masked(response: httpx.Response, params: Parameters) -> tuple[int, str]:
    text = response.text
    for name, value in params.items():
        text = text.replace(value, f"<{name}>")
    return response.status_code, text


def never_was(params: Parameters) -> Parameters:
    """Ids of the same shape and length."""
    return {
        name: value if name in NO_IDS else value[:-8] + "0" * 8 for name, value in params.items()
    }


def test_every_route_is_in_the_access_matrix(api: Api) -> None:
    # those: tests/app/web/test_page_access.py
    registered = routes_of(api.app.routes) - routes_of(pages.router.routes)
    assert {route for route in registered if route[1].startswith("/v1/")}
    others = PUBLIC | OF_WORKERS
    assert registered - set(ROUTES) - others == set(), "routes without a line there"
    assert (set(ROUTES) | others) - registered == set(), "lines for routes that are gone"
    for (method, path), route in ROUTES.items():
        assert ("{" in path) == (route.make is not None), f"{path}: `make` names what the path does"
        assert (method == "GET" and route.make is None and not route.is_of_all) == (
            route.lists is not None
        ), f"{path}: a collection needs `lists`"


@every_route
def test_the_owner_is_served_and_nobody_else(tenants: Tenants, method: str, path: str) -> None:
    """Who is refused is so before anything of the path or the body is looked at."""
    route = ROUTES[method, path]
    params = route.make(tenants.own) if route.make else {}
    sent = route.send(tenants.own, params)
    for key in (None, tenants.revoked, "nonsense"):
        answer = tenants.ask(key, method, path, params, **sent)
        assert (answer.status_code, code_of(answer)) == (
            401,
            "invalid_api_key" if method != "HEAD" else None,
        )
    low = tenants.keys[ADMIN] if route.by_installation else tenants.keys.get(LOWER[route.scope])  # type: ignore[arg-type]
    if low is not None:
        answer = tenants.ask(low, method, path, params, **sent)
        assert (answer.status_code, code_of(answer)) == (
            403,
            "insufficient_permissions" if method != "HEAD" else None,
        )
    answer = tenants.ask(tenants.key_for(route), method, path, params, **sent)
    assert answer.status_code == route.status, answer.text


@every_route
def test_foreign_and_unknown_objects_are_answered_alike(
    tenants: Tenants, method: str, path: str
) -> None:
    route = ROUTES[method, path]
    key = tenants.key_for(route)
    if route.make is not None:
        mine = route.make(tenants.own)
        unknown = never_was(mine)
        expected = masked(
            tenants.ask(key, method, path, unknown, **route.send(tenants.own, unknown)), unknown
        )
        assert expected[0] == 404
        if not route.by_installation:  # to which every project is its own
            theirs = route.make(tenants.other)
            assert (
                masked(
                    tenants.ask(key, method, path, theirs, **route.send(tenants.own, theirs)),
                    theirs,
                )
                == expected
            )
        if route.remove is not None:
            route.remove(tenants.own, mine)
            assert (
                masked(tenants.ask(key, method, path, mine, **route.send(tenants.own, mine)), mine)
                == expected
            )
    for field in route.refers_to:
        body = route.send(tenants.own, {})["json"]
        theirs_body = route.send(tenants.other, {})["json"]
        stolen = {field: theirs_body[field]}
        unknown = never_was({field: theirs_body[field]})
        refused = masked(tenants.ask(key, method, path, {}, json=body | stolen), stolen)
        assert refused[0] == 400
        assert refused == masked(tenants.ask(key, method, path, {}, json=body | unknown), unknown)


@pytest.mark.parametrize(
    "path", [path for (method, path), route in sorted(ROUTES.items()) if route.lists]
)
def test_lists_show_ones_own_only(tenants: Tenants, path: str) -> None:
    route = ROUTES["GET", path]
    assert route.lists is not None
    mine = route.lists(tenants.own)
    theirs = route.lists(tenants.other)
    ids = [
        item["id"] for item in tenants.ask(tenants.key_for(route), "GET", path, {}).json()["data"]
    ]
    assert mine in ids
    assert theirs not in ids
