"""`falqon mcp` as an agent has it, with the SDK's own client."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from tests.support.backend import ROOT
from tests.support.service import Service

TURNS = [("My parcel is late.", "delivery"), ("I was charged twice.", "payment")]
ROWS = "\n".join(
    json.dumps(
        {
            "messages": [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
        }
    )
    for question, answer in TURNS
)
Json = dict[str, Any]
TIMEOUT_SECONDS = 60.0  # A service that has just started imports on its first requests.


class Agent:
    """The tools as one client has them."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def use(self, tool: str, **arguments: Any) -> Json:
        result = await self.client.call_tool(tool, arguments)
        assert not result.is_error, result.content
        answer = result.structured_content
        assert isinstance(answer, dict)
        assert answer["cost"]
        return answer

    async def refusal(self, tool: str, **arguments: Any) -> str:
        result = await self.client.call_tool(tool, arguments)
        assert result.is_error
        (content,) = result.content
        return str(getattr(content, "text", ""))


def new_key(service: Service, **body: Any) -> str:
    answer = httpx.post(
        f"{service.url}/v1/api_keys",
        json={"name": "agent", "scope": "agent", "daily_budget_usd": "5"} | body,
        headers={"authorization": f"Bearer {service.key}"},
        timeout=TIMEOUT_SECONDS,
    )
    return str(answer.raise_for_status().json()["secret"])


@asynccontextmanager
async def on_stdio(service: Service, key: str, folder: Path) -> AsyncIterator[Agent]:
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "app.cli", "mcp"],
        env={"FALQON_BASE_URL": service.url, "FALQON_API_KEY": key, "PYTHONPATH": str(ROOT)},
        cwd=folder,
    )
    async with Client(parameters, read_timeout_seconds=120) as client:
        yield Agent(client)


@asynccontextmanager
async def on_http(url: str, key: str) -> AsyncIterator[Agent]:
    headers = {"authorization": f"Bearer {key}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=120) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        yield Agent(client)
