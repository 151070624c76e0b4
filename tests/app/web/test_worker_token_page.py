import re

import httpx

from app.base.ids import new_id
from app.models import DEFAULT_PROJECT_ID, Project, Scope
from app.web.pages.settings import worker_tokens
from tests.app.web.test_settings_pages import Browser, field_errors
from tests.support.api import Api, Tenant

PATH = "/settings/worker_tokens"


def test_a_worker_token_is_made_shown_once_and_revoked(tenant: Tenant) -> None:
    admin = Tenant(tenant.api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    root = Browser(tenant.api, admin.key)
    none_chosen = root.post(PATH, name="cluster")
    assert (none_chosen.status_code, list(field_errors(none_chosen))) == (400, ["project_ids"])
    unknown = root.post(PATH, name="cluster", project=["proj_none"])
    assert "proj_none" in field_errors(unknown)["project_ids"]

    page = root.post(PATH, name="<i>cluster</i>", project=[tenant.project_id])
    assert page.headers["cache-control"] == "no-store"
    command = r"FALQON_WORKER_TOKEN=(ft_work_\w+) falqon worker --join (http[^<]+)<"
    ((secret, url),) = re.findall(command, page.text)
    worker = {"authorization": f"Bearer {secret}", "falqon-worker": "machine-1"}

    def joins() -> bool:
        terms = httpx.get(f"{url}/v1/worker/terms", headers=worker, verify=False)
        return terms.status_code == 200

    assert joins()
    listed = root.get(PATH).text
    assert "&lt;i&gt;cluster&lt;/i&gt;" in listed
    assert secret not in listed
    token_id = f"wtok_{secret.split('_')[2]}"
    assert "Token revoked" in root.post(f"{PATH}/{token_id}/revoke").text
    assert not joins()
    again = root.post(f"{PATH}/{token_id}/revoke").text
    assert f"No such worker token: {token_id}" in again
    root.close()
    admin.http.close()


def test_a_token_may_stand_for_a_thousand_projects(api: Api) -> None:
    ids = [new_id("proj_") for _ in range(worker_tokens.MAX_PROJECTS)]
    with api.database.transaction() as session:
        session.add_all(Project(id=id_, name=f"team {n}") for n, id_ in enumerate(ids))
    admin = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    root = Browser(api, admin.key)
    offered = re.findall(r'name="project" value="([^"]+)"', root.get(PATH).text)
    assert set(offered) == {DEFAULT_PROJECT_ID, *ids[1:]}
    page = root.post(PATH, name="cluster", project=offered)
    assert "FALQON_WORKER_TOKEN=" in page.text
    listed = root.get(PATH).text
    assert listed.count("<code>proj_") == len(offered)
    assert f"<summary>{len(offered) - 10} more</summary>" in listed
    assert "Newest projects only" in listed
    root.close()
    admin.http.close()
