import hashlib

import openai
import pytest

from app.models import Model
from tests.support.api import Tenant

WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()


@pytest.fixture
def tuned(tenant: Tenant) -> str:
    """A fine-tuned model whose id holds a slash, with two artifacts."""
    model_id = f"ft:org/{tenant.base_model}:acme::x"
    tenant.add_model(model_id, project_id=tenant.project_id, base=tenant.base_model)
    tenant.store_artifacts(
        model_id, dict.fromkeys(("model.safetensors", "nested/vocab.txt"), WEIGHTS)
    )
    return model_id


def url(model_id: str, rest: str = "") -> str:
    return f"/v1/models/{model_id.replace('/', '%2F')}/artifacts{rest}"


def test_base_and_own_models_are_listed_and_only_own_deleted(
    tenant: Tenant, stranger: Tenant, tuned: str
) -> None:
    models = {model.id: model for model in tenant.client.models.list()}
    assert models[tenant.base_model].owned_by == "system"
    assert (models[tuned].object, models[tuned].owned_by, models[tuned].base_model) == (
        "model",
        tenant.project_id,
        tenant.base_model,
    )
    listed = models[tuned].to_dict()
    # What may change while the list stays the same is told of one model alone.
    assert tenant.client.models.retrieve(tuned).to_dict() == listed | {"replicas": 1}
    assert tuned not in {model.id for model in stranger.client.models.list()}
    for call in (stranger.client.models.retrieve, stranger.client.models.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            call(tuned)
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.PermissionDeniedError):
        tenant.client.models.delete(tenant.base_model)
    deleted = tenant.client.models.delete(tuned)
    assert (deleted.id, deleted.object, deleted.deleted) == (tuned, "model", True)
    with pytest.raises(openai.NotFoundError):
        tenant.client.models.retrieve(tuned)
    assert tenant.http.get(url(tuned)).status_code == 404


def test_a_list_has_adapters_only_on_demand_and_a_model_says_why_it_cannot_be_asked(
    tenant: Tenant, tuned: str
) -> None:
    adapter = f"{tuned}:lora"
    config = {"model_type": "olmo2"}
    with tenant.api.database.transaction() as session:
        for id_, format in ((adapter, "lora"), (f"{tuned}:bf16", "bf16")):
            session.add(
                Model(id=id_, project_id=tenant.project_id, format=format, config=config, bytes=1)
            )
    models = {model.id: model for model in tenant.client.models.list()}
    assert adapter not in models
    merged = models[f"{tuned}:bf16"].to_dict()
    assert "there is no GGUF for the architecture 'olmo2'. vLLM" in str(merged["engine_note"])
    assert tenant.client.models.retrieve(f"{tuned}:bf16").to_dict() == merged | {"replicas": 1}
    (listed,) = [
        model
        for model in tenant.http.get("/v1/models?adapters=true").json()["data"]
        if model["id"] == adapter
    ]
    assert (
        listed["engine_note"]
        == f"'{adapter}' is an adapter; use '{tuned}', which has it merged in."
    )
    assert tenant.client.models.retrieve(adapter).to_dict() == listed | {"replicas": 1}


def test_artifacts_are_listed_with_their_checksums(
    tenant: Tenant, stranger: Tenant, tuned: str
) -> None:
    listing = tenant.http.get(url(tuned)).json()
    assert [(item["name"], item["bytes"], item["sha256"]) for item in listing["data"]] == [
        ("model.safetensors", 2**20, SHA256),
        ("nested/vocab.txt", 2**20, SHA256),
    ]
    assert not listing["has_more"]
    manifest = tenant.http.get(url(tuned, "/manifest.json")).json()
    assert manifest["bytes"] == 2**21
    assert manifest["files"][1] == {
        "name": "nested/vocab.txt",
        "bytes": 2**20,
        "sha256": SHA256,
        "url": f"nested/vocab.txt?sha256={SHA256}",
        "block_bytes": 2**26,
        "block_sha256": [SHA256],
    }
    for path in ("", "/manifest.json", "/model.safetensors"):
        assert stranger.http.get(url(tuned, path)).status_code == 404
    assert tenant.http.get(url(tuned, "/nobody")).json()["error"]["param"] == "name"


@pytest.mark.parametrize("name", ["model.safetensors", "nested/vocab.txt"])
def test_a_download_is_whole_and_not_for_browsers_to_show(
    tenant: Tenant, tuned: str, name: str
) -> None:
    response = tenant.http.get(url(tuned, "/" + name))
    assert response.content == WEIGHTS
    assert response.headers["etag"] == f'"{SHA256}"'
    assert response.headers["content-length"] == str(2**20)
    assert response.headers["content-disposition"].startswith("attachment;")
    assert response.headers["x-content-type-options"] == "nosniff"
    head = tenant.http.head(url(tuned, "/" + name))
    assert (head.status_code, head.content, head.headers["content-length"]) == (
        200,
        b"",
        str(2**20),
    )


def test_a_download_resumes(tenant: Tenant, tuned: str) -> None:
    def get(**headers: str) -> tuple[int, bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        response = tenant.http.get(url(tuned, "/model.safetensors"), headers=sent)
        return response.status_code, response.content

    etag = f'"{SHA256}"'
    assert get(range="bytes=1000000-") == (206, WEIGHTS[1_000_000:])
    assert get(range="bytes=5-9", if_range=etag) == (206, WEIGHTS[5:10])
    assert get(range="bytes=-7") == (206, WEIGHTS[-7:])
    assert get(range="bytes=0-99999999") == (206, WEIGHTS)
    for whole in (
        {"range": "bytes=5-9", "if_range": '"old"'},
        {"range": "bytes=9-5"},
        {"range": "bytes=0-1,4-5"},
        {"range": "lines=1-2"},
    ):
        assert get(**whole) == (200, WEIGHTS)
    assert get(if_none_match=etag) == (304, b"")
    assert get(if_none_match=f'"old", W/{etag}') == (304, b"")
    assert get(if_none_match='"old"') == (200, WEIGHTS)


def test_a_range_beyond_the_end_says_where_the_end_is(tenant: Tenant, tuned: str) -> None:
    response = tenant.http.get(
        url(tuned, "/model.safetensors"), headers={"range": f"bytes={2**20}-"}
    )
    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{2**20}"
    assert response.json()["error"]["code"] == "range_not_satisfiable"
