"""Adapters at servers of the operator's own: one that a server does not have is loaded there, by
its name in this service's hub, when it is asked.
"""

from collections.abc import Awaitable, Callable

import httpx

from app.inference.service import EngineTarget

LOAD_PATH = "/v1/load_lora_adapter"


async def send_with_adapter(
    client: httpx.AsyncClient, target: EngineTarget, send: Callable[[], Awaitable[httpx.Response]]
) -> httpx.Response:
    """Return the answer to a request, which is sent again once the server has loaded an adapter
    that it did not have.
    """
    answer = await send()
    if _is_missing(target, answer.status_code):
        await answer.aclose()
        await _load_adapter(client, target)
        answer = await send()
    return answer


def _is_missing(target: EngineTarget, status: int) -> bool:
    """Return whether the answer may be that of a server which does not have the adapter."""
    return target.adapter is not None and status == httpx.codes.NOT_FOUND


async def _load_adapter(client: httpx.AsyncClient, target: EngineTarget) -> None:
    """Have the server load the adapter. What hinders it, the server says when it is asked again:
    it also refuses one that another request has had loaded meanwhile.
    """
    assert target.adapter is not None
    name, address = target.adapter
    request = {"lora_name": name, "lora_path": address}
    await client.post(f"{target.address}{LOAD_PATH}", json=request, headers=target.headers)
