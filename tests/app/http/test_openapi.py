"""The description is the promise that clients are generated from: what it says of every answer must
be there, and nothing else.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from starlette.testclient import TestClient

from app.base.settings import Settings
from app.main import create_app

ENVELOPE = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorResponse"}}}
MEDIA_TYPES = {
    ("get", "/v1/files/{file_id}/content"): {"application/octet-stream"},
    ("get", "/v1/models/{model}/artifacts/{name}"): {"application/octet-stream"},
    ("get", "/v1/models/{model}/archive"): {"application/x-tar"},
    ("get", "/v1/fine_tuning/jobs/{job_id}/metrics"): {"application/json", "text/csv"},
    ("get", "/v1/usage"): {"application/json", "text/csv"},
    ("get", "/v1/fine_tuning/jobs/{job_id}/stream"): {"text/event-stream"},
    ("get", "/v1/falqon/studies/{study_id}/table.md"): {"text/markdown"},
    ("get", "/v1/falqon/studies/{study_id}/table.csv"): {"text/csv"},
    ("get", "/v1/fine_tuning/jobs/{job_id}/logs"): {"application/json", "text/plain"},
    ("post", "/v1/chat/completions"): {"application/json", "text/event-stream"},
    ("post", "/v1/completions"): {"application/json", "text/event-stream"},
    ("post", "/v1/responses"): {"application/json", "text/event-stream"},
}
BODIES = {
    ("post", "/v1/files"): {"multipart/form-data", "application/json"},
    ("post", "/v1/uploads/{upload_id}/parts"): {"multipart/form-data"},
}


# in its query or body
NAMES_WHAT_MAY_NOT_BE_THERE = {
    ("get", "/v1/api_keys"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
    ("post", "/v1/embeddings"),
    ("post", "/v1/responses"),
}


class Operation(NamedTuple):
    method: str
    path: str
    details: dict[str, Any]

    @property
    def responses(self) -> dict[str, Any]:
        responses: dict[str, Any] = self.details["responses"]
        return responses

    @property
    def asks_for_a_key(self) -> bool:
        return "security" in self.details


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return create_app(Settings(_env_file=None)).openapi()


@pytest.fixture(scope="module")
def operations(description: dict[str, Any]) -> list[Operation]:
    return [
        Operation(method, path, details)
        for path, methods in description["paths"].items()
        for method, details in methods.items()
    ]


def test_every_error_is_described_with_our_body(
    description: dict[str, Any], operations: list[Operation]
) -> None:
    for operation in operations:
        errors = {
            status: response
            for status, response in operation.responses.items()
            if int(status) >= 400
        }
        assert "500" in errors
        if operation.path != "/readyz":  # whose 503 is an answer, not a failure
            assert all(response["content"] == ENVELOPE for response in errors.values()), (
                operation.path
            )
    assert not {"HTTPValidationError", "ValidationError"} & set(
        description["components"]["schemas"]
    )


def test_the_described_errors_follow_from_the_request(operations: list[Operation]) -> None:
    for operation in operations:
        statuses = set(operation.responses)
        assert ({"401", "413", "415", "429", "503"} <= statuses) == operation.asks_for_a_key, (
            operation.path
        )
        assert ("404" in statuses) == (
            "{" in operation.path or operation[:2] in NAMES_WHAT_MAY_NOT_BE_THERE
        ), operation.path
        assert ("422" in statuses) == ("Idempotency-Key" in str(operation.details)), operation.path
        assert ("403" in statuses) == (
            operation.asks_for_a_key
            and operation.details["security"] != [{"HTTPBearer": ["infer"]}]
        )
        if "requestBody" in operation.details or operation.details.get("parameters"):
            assert "400" in statuses


def test_headers_that_clients_act_on(
    description: dict[str, Any], operations: list[Operation]
) -> None:
    for operation in operations:
        for status, response in operation.responses.items():
            headers = set(response["headers"])
            assert "x-request-id" in headers
            assert ("x-should-retry" in headers) == (400 <= int(status) < 500)
            assert ("retry-after" in headers) == (status in ("429", "503"))
            assert ("x-ratelimit-remaining-requests" in headers) == operation.asks_for_a_key
    assert {"x-request-id", "x-should-retry", "retry-after"} <= set(
        description["components"]["headers"]
    )


def test_media_types(operations: list[Operation]) -> None:
    for operation in operations:
        assert set(operation.responses["200"]["content"]) == MEDIA_TYPES.get(
            operation[:2], {"application/json"}
        ), operation.path
        if "requestBody" in operation.details:
            expected = BODIES.get(operation[:2], {"application/json"})
            assert set(operation.details["requestBody"]["content"]) == expected


def test_downloads_tell_of_ranges_and_validators(operations: list[Operation]) -> None:
    downloads = [
        operation
        for operation in operations
        if "application/octet-stream" in operation.responses["200"].get("content", {})
    ]
    assert len(downloads) == 2
    for download in downloads:
        assert {"206", "302", "304", "416"} <= set(download.responses)
        assert "content-range" in download.responses["206"]["headers"]
        assert {"etag", "repr-digest"} <= set(download.responses["200"]["headers"])
        assert "location" in download.responses["302"]["headers"]
        assert "content" not in download.responses["304"]


def test_bodies_take_no_field_that_is_not_named(
    description: dict[str, Any], operations: list[Operation]
) -> None:
    schemas = description["components"]["schemas"]
    checked = set()
    for operation in operations:
        for name in references(operation.details.get("requestBody", {}), schemas):
            checked.add(name)
            assert (
                schemas[name].get("type") != "object"
                or schemas[name]["additionalProperties"] is False
            ), name
    assert {"JobRequest", "FalqonOptions", "FileForm", "Integration", "Budget"} <= checked


def test_a_wrong_method_is_answered_with_the_allowed_ones(description: dict[str, Any]) -> None:
    client = TestClient(create_app(Settings(_env_file=None)))
    for path, methods in description["paths"].items():
        answer = client.patch(path.replace("{", "").replace("}", ""))
        assert answer.status_code == 405
        assert answer.json()["error"]["code"] == "method_not_allowed"
        allowed = answer.headers["allow"].lower().split(", ")
        assert set(allowed) - {"head"} == set(methods), path
        assert len(allowed) == len(set(allowed))
    for path in ("/", "/docs", "/openapi.json", "/static/style.css"):
        answer = client.delete(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")
        assert "GET" in answer.headers["allow"]


def references(
    schema: Any, schemas: dict[str, Any], visited: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Names of all components that a schema is made of."""
    if isinstance(schema, list):
        for item in schema:
            yield from references(item, schemas, visited)
    elif isinstance(schema, dict):
        name = schema.get("$ref", "").rpartition("/")[2]
        if name and name not in visited:
            yield name
            yield from references(schemas[name], schemas, visited | {name})
        for value in schema.values():
            yield from references(value, schemas, visited)


def test_jobs_are_filtered_by_metadata_of_any_name(description: dict[str, Any]) -> None:
    parameters = description["paths"]["/v1/fine_tuning/jobs"]["get"]["parameters"]
    by_name = {parameter["name"]: parameter for parameter in parameters}
    assert {"after", "limit", "status", "model", "metadata"} == by_name.keys()
    assert by_name["metadata"]["style"] == "deepObject"
