"""Every call of the description, with input that nobody means well with: a clear 4xx, and not a row
or a byte more than before.
"""

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.models import DEFAULT_PROJECT_ID, Scope
from tests.contract.access_objects import a_batch_file
from tests.contract.hostile_input import ALSO_TAKEN, BODIES, JOB, NUMBERS, PATHS, UNREADABLE, Place
from tests.support.api import Api, Tenant
from tests.support.mutations import (
    HALF_A_CHARACTER,
    NUL,
    with_a_field_more,
    with_every_text_replaced,
    with_every_type_changed,
)
from tests.support.postgres import PostgresServer


@pytest.fixture(scope="module")
def place(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """On Postgres, which refuses texts and numbers that SQLite takes."""
    folder = tmp_path_factory.mktemp("hostile")
    url = postgres.create_database("hostile")
    api = Api(url, folder, max_file_bytes=2**20)
    tenant = Tenant(api, Scope.ADMIN, DEFAULT_PROJECT_ID)
    job = tenant.job()
    tenant.client.fine_tuning.jobs.pause(job.id)  # nobody is notified of it
    ended = tenant.job()
    tenant.client.fine_tuning.jobs.cancel(ended.id)
    upload = tenant.client.uploads.create(
        bytes=9, filename="a", mime_type="text/jsonl", purpose="fine-tune"
    )
    endpoint = tenant.client.webhooks.create(
        url="https://hooks.example.com/", name="ours", event_types=["fine_tuning.job.failed"]
    )
    name = {"name": "n", "model": tenant.base_model}
    tenant.http.post("/v1/aliases", json=name).raise_for_status()
    objects = {
        "file_id": job.training_file,
        "held_out": tenant.upload(),
        "job_id": job.id,
        "upload_id": upload.id,
        "webhook_endpoint_id": endpoint.id,
        "delivery_id": "whd_x",
        "model": tenant.base_model,
        "name": "config.json",
        "checkpoint": tenant.add_checkpoint(ended.id),
        "permission_id": "cp_x",
        "worker": "worker-x",
        "project_id": Tenant(api).project_id,
        "key_id": "key_x",
        "format": "bf16",
        "evaluation_id": "eval-x",
        "batch_id": "batch_x",
        "requests": a_batch_file(tenant),
        "study_id": "study-x",
        "token_id": "stoken-x",
        "import_id": "mimport-x",
        "alias": "n",
        "switch_id": "switch-x",
        "completion_id": "chatcmpl-x",
        "response_id": "resp_x",
        "user_id": "user_x",
        "grant_id": "grant_x",
    }
    yield Place(api, tenant, objects, tenant.http.get("/openapi.json").json())
    tenant.http.close()
    api.stop()


@pytest.fixture
def unchanged(place: Place) -> Iterator[None]:
    before = place.contents()
    yield
    after = place.contents()
    for table, rows in after.rows.items():
        assert rows == before.rows[table], table
    assert after.stored == before.stored


def refused(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    sent = answer.request
    assert answer.status_code in (statuses or (400,)), (
        sent.method,
        str(sent.url)[:200],
        answer.text,
    )
    error: dict[str, Any] = answer.json()["error"]
    assert error["message"]
    assert error["code"]
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-should-retry"] == "false"
    return error


def test_every_call_with_a_body_has_a_sample_body(place: Place) -> None:
    with_json = {
        name
        for name, details in place.operations()
        if "application/json" in details.get("requestBody", {}).get("content", {})
    }
    assert with_json == set(BODIES)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", BODIES)
def test_text_that_no_database_keeps_is_refused_by_its_field(place: Place, operation: str) -> None:
    for changed, where in with_every_text_replaced(BODIES[operation]):
        error = refused(place.send_json(operation, changed))
        assert (error["param"] or "").startswith(where.split(".")[0]), (where, error)
        assert "NUL" in error["message"] or "surrogate" in error["message"]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", BODIES)
def test_values_of_a_wrong_type_are_refused_by_their_field(place: Place, operation: str) -> None:
    for changed, where in with_every_type_changed(BODIES[operation]):
        if changed in ALSO_TAKEN:
            continue
        error = refused(place.send_json(operation, changed))
        assert (error["param"] or "").startswith(where.split(".")[0]), (where, error)


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", BODIES)
def test_unknown_fields_are_refused_by_name(place: Place, operation: str) -> None:
    for changed in with_a_field_more(BODIES[operation], free="metadata"):
        error = refused(place.send_json(operation, changed))
        assert error["code"] == "unknown_parameter"
        assert error["param"].endswith("colour")


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("operation", BODIES)
def test_bodies_that_cannot_be_read_are_refused(place: Place, operation: str) -> None:
    optional = operation.endswith(("/clone", "/resume", "/rollback", "/rotate_secret"))
    for name, content in UNREADABLE.items():
        if name in {"nothing", "null"} and optional:
            continue
        refused(
            place.send(operation, content=content, headers={"content-type": "application/json"})
        )
    for type_ in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/\xff",
    ):
        refused(
            place.send(operation, content=b"{}", headers={"content-type": type_.encode("latin-1")})
        )


# Starlette leaves the temporary file of a part that never ended to Python's reference count.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("operation", "field"),
    [("POST /v1/files", "file"), ("POST /v1/uploads/{upload_id}/parts", "data")],
)
def test_forms_that_cannot_be_read_are_refused(place: Place, operation: str, field: str) -> None:
    purpose = (
        b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
        if field == "file"
        else b""
    )
    file = (
        b'--x\r\nContent-Disposition: form-data; name="%b"; filename="a"\r\n\r\n{}' % field.encode()
    )
    contents = {
        "no form": b"hello",
        "empty": b"",
        "only the end": b"--x--\r\n",
        "cut in the file": purpose + file,
        "cut in a header": purpose + b"--x\r\nContent-Dispo",
        "a part without a name": purpose
        + b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n",
        "a field for the file": purpose + file.replace(b'; filename="a"', b"") + b"\r\n--x--\r\n",
        "one field more": purpose
        + file
        + b'\r\n--x\r\nContent-Disposition: form-data; name="colour"\r\n\r\nred\r\n--x--\r\n',
        "many fields": purpose
        + b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 2000
        + file
        + b"\r\n--x--\r\n",
        "another boundary": (purpose + file + b"\r\n--x--\r\n").replace(b"--x", b"--y"),
        "JSON": b'{"purpose": "fine-tune"}',
    }
    for content in contents.values():
        refused(
            place.send(
                operation,
                content=content,
                headers={"content-type": "multipart/form-data; boundary=x"},
            )
        )
    for type_ in (
        "multipart/form-data",
        "application/json",
        "application/x-www-form-urlencoded",
        "text/plain",
    ):
        refused(
            place.send(
                operation,
                content=purpose + file + b"\r\n--x--\r\n",
                headers={"content-type": type_},
            )
        )


@pytest.mark.usefixtures("unchanged")
def test_bodies_that_are_too_large_or_compressed_are_refused(place: Place) -> None:
    compressed = gzip.compress(bytes(2**20))
    for operation, details in place.operations():
        if "security" not in details:
            continue
        for encoding in ("gzip", "deflate", "br", "gzip, identity"):
            error = refused(
                place.send(operation, content=compressed, headers={"content-encoding": encoding}),
                415,
            )
            assert (error["code"], error["param"]) == (
                "unsupported_content_encoding",
                "content-encoding",
            )
        assert b" 413 " in claimed(place, operation, 10 * 10**9)
        if "application/json" in details.get("requestBody", {}).get("content", {}):
            large = b'{"model": "' + b"x" * 2**20 + b'"}'
            for content in (large, iter([large])):  # with a length, and in chunks
                assert refused(
                    place.send(
                        operation, content=content, headers={"content-type": "application/json"}
                    ),
                    413,
                )


def claimed(place: Place, operation: str, length: int) -> bytes:
    """The first line of the answer to a request that says it is so long; nothing of its body is
    sent.
    """
    url = httpx.URL(place.api.url)
    (method, path) = operation.split()
    head = (
        f"{method} {path.format(**place.objects)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer "
        f"{place.tenant.key}\r\n"
    )
    with socket.create_connection((url.host, url.port)) as connection:
        connection.settimeout(10)
        connection.sendall(
            f"{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        return connection.recv(2**16).partition(b"\r\n")[0]


@pytest.mark.usefixtures("unchanged")
def test_malformed_ids_in_a_path_are_refused(place: Place) -> None:
    for operation, details in place.operations():
        method, path = operation.split()
        for parameter in details.get("parameters", []):
            if parameter["in"] != "path":
                continue
            for junk in PATHS:
                url = httpx.URL(place.api.url).copy_with(
                    raw_path=path.format(**place.objects | {parameter["name"]: junk}).encode()
                )
                content = json.dumps(BODIES[operation]).encode() if operation in BODIES else b""
                answer = place.tenant.http.request(
                    method, url, content=content, headers={"content-type": "application/json"}
                )
                # An encoded slash may lead to another address, which may not have the method.
                refused(answer, 400, 404, *([405] if "%2F" in junk or "%2f" in junk else []))


@pytest.mark.usefixtures("unchanged")
def test_queries_out_of_range_are_refused(place: Place) -> None:
    num_refusals = 0
    for operation, details in place.operations():
        needed = {
            parameter["name"]: "1790000000"  # moments, so far
            for parameter in details.get("parameters", [])
            if parameter["in"] == "query" and parameter.get("required")
        }
        for parameter in details.get("parameters", []):
            if parameter["in"] != "query":
                continue
            schemas = parameter["schema"].get("anyOf", [parameter["schema"]])
            kinds = {schema.get("type") for schema in schemas}
            values = [NUL]
            if "integer" in kinds:
                values = NUMBERS
            elif "boolean" in kinds or any("enum" in schema for schema in schemas):
                values += ["perhaps", "2", ""]
            elif parameter["name"] == "after":
                values += ["nobody", "", "x" * 300, "-1", "'--"]
            for value in values:
                error = refused(place.send(operation, params=needed | {parameter["name"]: value}))
                assert error["param"] == parameter["name"], (
                    operation,
                    parameter["name"],
                    value,
                    error,
                )
                num_refusals += 1
    assert num_refusals > 100


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    "metadata",
    [
        {f"k{number}": "v" for number in range(17)},
        {"k" * 65: "v"},
        {"k": "v" * 513},
        {"k": 1},
        {"k": None},
        {"k": {"a": "b"}},
        {"k": ["v"]},
        [["k", "v"]],
        "k=v",
    ],
)
def test_metadata_beyond_its_limits_is_refused(place: Place, metadata: object) -> None:
    for operation in (
        "POST /v1/fine_tuning/jobs",
        "POST /v1/fine_tuning/estimates",
        "POST /v1/fine_tuning/jobs/{job_id}/clone",
    ):
        assert refused(place.send_json(operation, JOB | {"metadata": metadata}))[
            "param"
        ].startswith("metadata")


def test_metadata_at_its_limits_is_kept(place: Place) -> None:
    metadata = {
        f"{number:02}" + "\N{PILE OF POO}" * 62: "\N{PILE OF POO}" * 512 for number in range(16)
    }
    job = place.send_json("POST /v1/fine_tuning/jobs", JOB | {"metadata": metadata}).json()
    assert job["metadata"] == metadata
    # nobody is notified of it while other tests look
    place.tenant.client.fine_tuning.jobs.pause(job["id"])


@pytest.mark.usefixtures("unchanged")
def test_file_names_that_are_paths_are_refused_or_cut(place: Place) -> None:
    for name in (
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "..",
        ".",
        "a\nb",
        "a\x7fb",
        "a\0b",
        HALF_A_CHARACTER,
        "n" * 256,
    ):
        body = BODIES["POST /v1/uploads"] | {"filename": name}
        assert refused(place.send_json("POST /v1/uploads", body))["param"] == "filename"
        for header in (f'filename="{name}"', f"filename*=utf-8''{name}"):
            part = f'--x\r\nContent-Disposition: form-data; name="file"; {header}\r\n\r\n{{}}\r\n'
            purpose = '--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
            content = (purpose + part + "--x--\r\n").encode(errors="surrogatepass")
            answer = place.send(
                "POST /v1/files",
                content=content,
                headers={"content-type": "multipart/form-data; boundary=x"},
            )
            assert answer.status_code == 400, (header, answer.text)
