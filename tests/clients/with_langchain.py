"""LangChain's `ChatOpenAI`: ask, stream, tools, structured output, Responses, embeddings."""

import asyncio
import os
from typing import Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from openai import NotFoundError
from pydantic import BaseModel

MODEL = os.environ["MODEL"]
QUESTION = [("system", "You are brief."), ("user", "What is the code?")]


class Verdict(BaseModel):
    """The mood of a text."""

    mood: Literal["good", "bad"]


@tool
def find_order(customer: Literal["Ada", "Bob"]) -> str:
    """Find the order of a customer."""
    return f"{customer}'s order is on its way."


def ask(chat: ChatOpenAI) -> None:
    answer = chat.invoke(QUESTION)
    assert answer.content
    assert answer.usage_metadata["output_tokens"] > 0
    chunks = list(chat.stream(QUESTION))
    assert len(chunks) > 1
    assert sum(chunks[1:], chunks[0]).usage_metadata["output_tokens"] > 0
    assert len(chat.batch([QUESTION, QUESTION])) == 2


def use_tools(chat: ChatOpenAI) -> None:
    bound = chat.bind_tools([find_order], tool_choice="required")
    call = bound.invoke("Where is Ada's order?")
    assert call.tool_calls[0]["name"] == "find_order"
    result = find_order.invoke(call.tool_calls[0])
    assert chat.bind_tools([find_order]).invoke([("user", "Where is it?"), call, result])
    for method in ("json_schema", "function_calling"):
        verdict = chat.with_structured_output(Verdict, method=method).invoke("All is well.")
        assert verdict.mood in ("good", "bad")


async def ask_at_once(*chats: ChatOpenAI) -> None:
    answers = await asyncio.gather(*(chat.ainvoke(QUESTION) for chat in chats))
    assert all(answer.content for answer in answers)


def main() -> None:
    chat = ChatOpenAI(model=MODEL, max_tokens=200, temperature=0, stream_usage=True)
    ask(chat)
    use_tools(chat)
    responses = ChatOpenAI(model=MODEL, max_tokens=200, use_responses_api=True)
    ask(responses)
    use_tools(responses)
    asyncio.run(ask_at_once(chat, responses))
    assert OpenAI(model=MODEL, max_tokens=4).invoke("One, two")
    code = None
    try:
        OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False).embed_query("text")
    except NotFoundError as error:
        code = error.code
    assert code == "not_served"


main()
