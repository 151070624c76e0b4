"""Translation of a request into the words of an engine, and of the response back."""

import json
from dataclasses import dataclass
from typing import Any

from app.inference.completions import CompletionRewriter
from app.inference.echo import echo_prompts, without_answers
from app.inference.engine_traits import EngineTraits, KnownTraits, Post
from app.inference.rewriting import Document, Rewriter
from app.inference.sampling import name_for_engine
from app.inference.schemas import ChatCompletionRequest, CompletionRequest, InferenceRequest
from app.inference.tool_calls import ToolCallRewriter
from app.inference.tool_choice import plan_calls


@dataclass(frozen=True, slots=True)
class Translation:
    """Result of a translation. `content`: the request for the engine; None if the response is known
    without it.
    """

    content: bytes | None
    rewriter: Rewriter
    answer: Document | None = None


async def translate(
    body: InferenceRequest, known_traits: KnownTraits, key: tuple[str, str, str], post: Post
) -> Translation:
    """Translate a request. `key` names the engine. Raises `InvalidRequest` for a field that the
    engine lacks.
    """
    fields = body.engine_fields()
    traits = EngineTraits("other")
    if _depends_on_engine(body):
        traits = await known_traits.of(key, post)
        fields = name_for_engine(fields, traits.kind)
    if isinstance(body, CompletionRequest):
        return await _completion(body, fields, traits, post)
    rewriter = Rewriter()
    if isinstance(body, ChatCompletionRequest):
        if body.tools or body.tool_choice is not None:
            fields, plan = plan_calls(body, fields, traits)
            if plan.mode != "native" or plan.is_legacy:
                rewriter = ToolCallRewriter(plan)
        elif body.logprobs:
            rewriter = LogprobsRewriter()
    return Translation(json.dumps(fields).encode(), rewriter)


def _depends_on_engine(body: InferenceRequest) -> bool:
    return bool(
        body.own_fields
        or (isinstance(body, ChatCompletionRequest) and body.tools)
        or (isinstance(body, CompletionRequest) and body.echo)
    )


async def _completion(
    body: CompletionRequest, fields: dict[str, Any], traits: EngineTraits, post: Post
) -> Translation:
    echoes = []
    if body.echo and traits.kind == "llama.cpp":
        echoes = await echo_prompts(body, traits, post)
        fields.pop("echo")
    if fields.get("logprobs") == 0:  # llama.cpp takes 0 for none
        fields["logprobs"] = 1
    is_plain = body.logprobs is None and not echoes
    rewriter = Rewriter()
    if not is_plain:
        rewriter = CompletionRewriter(body.logprobs, echoes)
    if echoes and body.max_tokens == 0:
        answer = without_answers(body.model, echoes)
        rewriter.rewrite(answer)
        return Translation(None, rewriter, answer)
    return Translation(json.dumps(fields).encode(), rewriter)


class LogprobsRewriter(Rewriter):
    """Rewriter for answers whose tokens llama.cpp has left out, as they end within a character: it
    sets their logprobs to none.
    """

    def rewrite(self, document: Document) -> None:
        for choice in document["choices"]:
            choice["logprobs"] = choice.get("logprobs") or {"content": []}
