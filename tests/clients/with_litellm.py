"""LiteLLM's library: ask, stream, tools, structured output, Responses, batches, fine-tuning."""

import asyncio
import os
import time
from typing import Any, Literal

import litellm
from pydantic import BaseModel

MODEL = f"openai/{os.environ['MODEL']}"
MESSAGES = [{"role": "user", "content": "What is the code?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "find_order",
        "parameters": {"type": "object", "properties": {"customer": {"enum": ["Ada", "Bob"]}}},
    },
}


class Verdict(BaseModel):
    mood: Literal["good", "bad"]


def ask() -> None:
    options: Any = {"model": MODEL, "max_tokens": 200}
    answer = litellm.completion(messages=MESSAGES, **options)
    assert answer.choices[0].message.content
    assert answer.usage.completion_tokens > 0
    chunks = list(
        litellm.completion(
            messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **options
        )
    )
    assert litellm.stream_chunk_builder(chunks).usage.completion_tokens > 0
    assert asyncio.run(litellm.acompletion(messages=MESSAGES, **options)).choices
    call = litellm.completion(messages=MESSAGES, tools=[TOOL], tool_choice="required", **options)
    assert call.choices[0].message.tool_calls[0].function.name == "find_order"
    shaped = litellm.completion(messages=MESSAGES, response_format=Verdict, **options)
    Verdict.model_validate_json(shaped.choices[0].message.content)
    assert litellm.text_completion(prompt="One, two", **options).choices[0].text
    assert litellm.responses(model=MODEL, input="Hello", max_output_tokens=200).output
    events = [each.type for each in litellm.responses(model=MODEL, input="Hello", stream=True)]
    assert events[-1] in ("response.completed", "response.incomplete"), events
    refusal = ""
    try:
        litellm.embedding(model=MODEL, input=["text"])
    except litellm.NotFoundError as error:
        refusal = str(error)
    assert "not served" in refusal


def train() -> None:
    with open(os.environ["TRAINING_FILE"], "rb") as rows:
        file = litellm.create_file(file=rows, purpose="fine-tune", custom_llm_provider="openai")
    job = litellm.create_fine_tuning_job(
        model=os.environ["MODEL"],
        training_file=file.id,
        hyperparameters={"n_epochs": 1},
        custom_llm_provider="openai",
    )
    while job.status not in ("succeeded", "failed", "cancelled"):
        time.sleep(1)
        job = litellm.retrieve_fine_tuning_job(job.id, custom_llm_provider="openai")
    assert job.status == "succeeded", job
    jobs = litellm.list_fine_tuning_jobs(custom_llm_provider="openai")
    assert job.id in [each.id for each in jobs.data]
    model = f"openai/{job.fine_tuned_model}"
    assert litellm.completion(model=model, messages=MESSAGES, max_tokens=8).choices


def main() -> None:
    ask()
    train()


main()
