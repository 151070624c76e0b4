"""What tests ask of the report of a file."""

import json
from typing import Any

from tests.support.api import Tenant


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def report(tenant: Tenant, file_id: str, **query: Any) -> dict[str, Any]:
    response = tenant.http.get(f"/v1/files/{file_id}/report", params=query)
    assert response.status_code == 200, response.text
    content: dict[str, Any] = response.json()
    return content
