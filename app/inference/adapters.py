"""Adapters at servers of the operator's own: one that a server does not have is loaded there, by
its name in this service's hub, when it is asked.
"""

import httpx

from app.inference.service import EngineTarget

LOAD_PATH = "/v1/load_lora_adapter"


async def load_adapter(client: httpx.AsyncClient, target: EngineTarget) -> bool:
    """Return whether the server has the adapter now."""
    if target.adapter is None:
        return False
    name, address = target.adapter
    answer = await client.post(
        f"{target.address}{LOAD_PATH}",
        json={"lora_name": name, "lora_path": address},
        headers=target.headers,
    )
    # vLLM refuses one that another request has had loaded meanwhile.
    return answer.status_code in (httpx.codes.OK, httpx.codes.BAD_REQUEST)
