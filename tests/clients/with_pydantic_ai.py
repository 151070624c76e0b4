"""pydantic-ai's agents: ask, stream, tools, structured output in two ways, Responses."""

import os
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.settings import ModelSettings

MODEL = os.environ["MODEL"]
SETTINGS = ModelSettings(max_tokens=200, temperature=0)


class Verdict(BaseModel):
    """The mood of a text."""

    mood: Literal["good", "bad"]


def find_order(customer: Literal["Ada", "Bob"]) -> str:
    """Find the order of a customer."""
    return f"{customer}'s order is on its way."


def try_model(model: Any) -> None:
    agent = Agent(model, instructions="You are brief.", model_settings=SETTINGS)
    answer = agent.run_sync("What is the code?")
    assert answer.output
    assert answer.usage.output_tokens > 0
    again = agent.run_sync("And now?", message_history=answer.all_messages())
    assert again.output
    stream = agent.run_stream_sync("What is the code?")
    assert "".join(stream.stream_text(delta=True))
    with_tools = Agent(model, tools=[find_order], model_settings=SETTINGS)
    assert with_tools.run_sync("Where is Ada's order?").output
    for output_type in (Verdict, NativeOutput(Verdict)):
        shaped = Agent(model, output_type=output_type, model_settings=SETTINGS)
        assert shaped.run_sync("All is well.").output.mood in ("good", "bad")


def main() -> None:
    try_model(OpenAIChatModel(MODEL))
    try_model(OpenAIResponsesModel(MODEL))


main()
