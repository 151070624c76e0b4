"""Differences between engines that matter to a request: the program, and whether the model's chat
template supports tools. They are read from the engine itself.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

from app.inference.refusals import BUSY_STATUSES, refusal_of
from app.inference.sampling import EngineKind

LIFETIME_SECONDS = 300.0  # an engine of the operator's own may serve another model by then
MAX_KNOWN = 10_000
# Sends a request to the engine: address, fields (None: a GET) -> its response, independently of the
# status.
Post = Callable[[str, dict[str, Any] | None], Awaitable[httpx.Response]]
PROBE_MESSAGES = [{"role": "user", "content": "Hello"}]
PROBE_TOOL = {"type": "function", "function": {"name": "probe", "parameters": {"type": "object"}}}


@dataclass(frozen=True, slots=True)
class EngineTraits:
    kind: EngineKind
    template_has_tools: bool = True
    template_has_system: bool = True
    context: int | None = None  # tokens, of one answer with its prompt
    eos: str = ""


class KnownTraits:
    """Cache by address, token and model: a worker's engine has a new token with each load."""

    def __init__(self) -> None:
        self._traits: dict[tuple[str, str, str], tuple[EngineTraits, float]] = {}

    async def of(self, key: tuple[str, str, str], post: Post) -> EngineTraits:
        traits, read_at = self._traits.get(key, (None, 0.0))
        if traits is not None and time.monotonic() < read_at + LIFETIME_SECONDS:
            return traits
        traits = await _probe(post, model_id=key[2])
        if len(self._traits) >= MAX_KNOWN:
            self._traits.clear()
        self._traits[key] = traits, time.monotonic()
        return traits


async def _probe(post: Post, model_id: str) -> EngineTraits:
    properties = _object_of(await post("/props", None))
    capabilities = properties.get("chat_template_caps")
    if not isinstance(capabilities, dict):
        return EngineTraits("other", template_has_tools=await _renders_tools(post, model_id))
    defaults = properties.get("default_generation_settings")
    context = defaults.get("n_ctx") if isinstance(defaults, dict) else None
    return EngineTraits(
        "llama.cpp",
        template_has_tools=bool(capabilities.get("supports_tools", True)),
        template_has_system=bool(capabilities.get("supports_system_role", True)),
        context=context if isinstance(context, int) else None,
        eos=str(properties.get("eos_token") or ""),
    )


async def _renders_tools(post: Post, model_id: str) -> bool:
    """Return True if a prompt with tools is longer, as vLLM counts it; an engine that does not
    count is assumed to render them.
    """
    question = {"model": model_id, "messages": PROBE_MESSAGES}
    plain = _object_of(await post("/tokenize", question)).get("count")
    with_tools = _object_of(await post("/tokenize", question | {"tools": [PROBE_TOOL]})).get(
        "count"
    )
    return plain is None or plain != with_tools


def _object_of(answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code in BUSY_STATUSES:  # the engine is busy; its traits are read later
        raise refusal_of(answer.status_code, answer.content)
    if answer.status_code != httpx.codes.OK:
        return {}
    try:
        parsed = answer.json()
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
