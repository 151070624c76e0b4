"""Names that want to be somewhere else, through everything of the API that takes a name."""

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from tests.support.api import Api, Tenant, jsonl
from tests.support.traversal import NAMES

CANARY = "the canary of this test"
PLACES = (
    "/v1/files/{}/content",
    "/v1/models/{}/artifacts",
    "/v1/models/{model}/artifacts/{}",
    "/v1/fine_tuning/jobs/{}/checkpoints",
    "/v1/uploads/{}",
    "/static/{}",
    "/docs/assets/{}",
    "/{}",
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("traversal")
    for home in (folder, folder / "data", folder / "data" / "objects"):
        home.mkdir(exist_ok=True)
        for name in ("canary", "session_secret"):
            (home / name).write_text(CANARY)
    api = Api(f"sqlite:///{folder / 'falqon.db'}", folder / "data", session_secret="s" * 32)
    yield api
    api.stop()


def test_nothing_outside_is_ever_read(api: Api) -> None:
    tenant = Tenant(api)
    # Not httpx: it tidies addresses up.
    connection = http.client.HTTPConnection(urlsplit(api.url).netloc, timeout=10)
    statuses = set()
    for place in PLACES:
        for name in NAMES:
            for written in {quote(name, safe=""), quote(name, safe="/%.\\:;~")}:
                connection.request(
                    "GET",
                    place.format(written, model=tenant.base_model),
                    headers={"authorization": f"Bearer {tenant.key}"},
                )
                answer = connection.getresponse()
                body = answer.read()
                assert CANARY.encode() not in body
                assert b"root:" not in body
                assert answer.status < 500, (place, name)
                assert answer.status != 303 or answer.headers["location"].startswith("/sign-in"), (
                    place,
                    name,
                )
                statuses.add(answer.status)
    connection.close()
    tenant.http.close()
    assert statuses <= {200, 303, 307, 400, 404, 405, 422}  # 303: pages ask to sign in
    assert 404 in statuses


def test_a_file_name_is_text_and_never_a_place(api: Api) -> None:
    tenant = Tenant(api)
    before = _outside(api.settings.data_dir.parent)
    accepted = []
    for name in NAMES:
        answer = tenant.http.post(
            "/v1/files", files={"file": (name, jsonl(1))}, data={"purpose": "fine-tune"}
        )
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 200:
            accepted.append(answer.json()["id"])
    assert len(accepted) > 40
    assert tenant.stored() == sorted(f"files/{file_id}" for file_id in accepted)
    assert _outside(api.settings.data_dir.parent) == before
    for file_id in accepted:
        header = tenant.http.get(f"/v1/files/{file_id}/content").headers["content-disposition"]
        assert header.isprintable()
        assert "/" not in header
        assert "\\" not in header
    tenant.http.close()


def _outside(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return sorted(
        name for name in names if not name.startswith(("data/objects/projects", "falqon.db"))
    )
