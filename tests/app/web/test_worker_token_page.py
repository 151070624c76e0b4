import re

import httpx

from app.models import DEFAULT_PROJECT_ID, Scope
from tests.app.web.test_settings_pages import Browser, field_errors
from tests.support.api import Tenant


def test_a_worker_token_is_made_shown_once_and_revoked(tenant: Tenant) -> None:
    admin = Tenant(tenant.api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    root = Browser(tenant.api, admin.key)
    path = "/settings/worker_tokens"
    none_chosen = root.post(path, name="cluster")
    assert (none_chosen.status_code, list(field_errors(none_chosen))) == (400, ["project_ids"])
    unknown = root.post(path, name="cluster", project=["proj_none"])
    assert "proj_none" in field_errors(unknown)["project_ids"]

    page = root.post(path, name="<i>cluster</i>", project=[tenant.project_id])
    assert page.headers["cache-control"] == "no-store"
    command = r"FALQON_WORKER_TOKEN=(ft_work_\w+) falqon worker --join (http[^<]+)<"
    ((secret, url),) = re.findall(command, page.text)
    worker = {"authorization": f"Bearer {secret}", "falqon-worker": "machine-1"}

    def joins() -> bool:
        terms = httpx.get(f"{url}/v1/worker/terms", headers=worker, verify=False)
        return terms.status_code == 200

    assert joins()
    listed = root.get(path).text
    assert "&lt;i&gt;cluster&lt;/i&gt;" in listed
    assert secret not in listed
    token_id = f"wtok_{secret.split('_')[2]}"
    assert "The token is revoked" in root.post(f"{path}/{token_id}/revoke").text
    assert not joins()
    again = root.post(f"{path}/{token_id}/revoke").text
    assert f"No such worker token: {token_id}" in again
    root.close()
    admin.http.close()
