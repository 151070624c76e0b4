"""LlamaIndex: ask, stream, tools, structured output, Responses, embeddings."""

import asyncio
import os
from typing import Literal

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses
from openai import NotFoundError
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
URL = os.environ["OPENAI_BASE_URL"]
KEY = os.environ["OPENAI_API_KEY"]
MESSAGES = [ChatMessage(role="user", content="What is the code?")]


class Verdict(BaseModel):
    """The mood of a text."""

    mood: Literal["good", "bad"]


def find_order(customer: Literal["Ada", "Bob"]) -> str:
    """Find the order of a customer."""
    return f"{customer}'s order is on its way."


def ask(llm: OpenAILike | OpenAILikeResponses) -> None:
    assert llm.chat(MESSAGES).message.content
    assert llm.complete("One, two").text
    assert "".join(chunk.delta or "" for chunk in llm.stream_chat(MESSAGES))
    assert asyncio.run(llm.achat(MESSAGES)).message.content
    tool = FunctionTool.from_defaults(find_order)
    called = llm.chat_with_tools([tool], "Where is Ada's order?", tool_required=True)
    (call,) = llm.get_tool_calls_from_response(called)
    assert call.tool_name == "find_order"
    verdict = llm.as_structured_llm(Verdict).complete("All is well.").raw
    assert verdict.mood in ("good", "bad")


def main() -> None:
    options = {"model": MODEL, "api_base": URL, "api_key": KEY, "is_function_calling_model": True}
    ask(OpenAILike(is_chat_model=True, max_tokens=200, **options))
    ask(OpenAILikeResponses(max_output_tokens=200, **options))
    code = None
    try:
        OpenAIEmbedding(model_name=MODEL, api_base=URL).get_text_embedding("text")
    except NotFoundError as error:
        code = error.code
    assert code == "not_served"


main()
