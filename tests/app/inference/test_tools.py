"""Tools of a model whose template knows them: they reach the prompt, and calls come back. So that
weights without a meaning make one, what begins and ends a call is made likely.
"""

import json
from typing import Any

import pytest
from openai import OpenAI
from sqlalchemy import select

from app.catalogue.importer import add_folder
from app.models import Artifact
from tests.support.api import Api, Tenant

BASE = "falqon-tiny"
MODEL = "acme/tools"
LIKELY = ("<|im_end|>", "~", "}", "`")  # the first of them that may come, does
TEMPLATE = """
{%- for tool in tools or [] -%}
{{ '<|im_start|>system\\n' + tool | tojson + '<|im_end|>\\n' }}
{%- endfor -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] -%}
{{ '~{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson + '}`' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{{ '<|im_start|>assistant\\n' if add_generation_prompt else '' }}
"""
HELLO = {"role": "user", "content": "Hello"}
PARAMETERS = {
    "type": "object",
    "properties": {"town": {"enum": ["Ulm", "Bonn"]}},
    "required": ["town"],
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Of a town.", "parameters": PARAMETERS},
}


@pytest.fixture(scope="module")
def question(api: Api, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Add the model. Returns what makes it call a tool."""
    folder = tmp_path_factory.mktemp("tools")
    with api.database.read() as session:
        files = session.scalars(select(Artifact).where(Artifact.model_id == BASE)).all()
    for file in files:
        (folder / file.name).write_bytes(api.storage.read(file.storage_key) or b"")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    add_folder(api.database, api.storage, MODEL, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_bytes())
    ids = tokenizer["model"]["vocab"] | {
        token["content"]: token["id"] for token in tokenizer["added_tokens"]
    }
    return {
        "model": MODEL,
        "messages": [HELLO],
        "tools": [WEATHER],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 200,
        "logit_bias": {str(ids[token]): 100 - i for i, token in enumerate(LIKELY)},
    }


@pytest.fixture
def client(tenant: Tenant) -> OpenAI:
    return tenant.client.with_options(timeout=60)


def test_a_call_and_its_result(client: OpenAI, question: dict[str, Any]) -> None:
    choice = client.chat.completions.create(**question).choices[0]
    assert choice.finish_reason == "tool_calls", choice.message
    (call,) = choice.message.tool_calls or []
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["town"] in ("Ulm", "Bonn")
    result = {"role": "tool", "tool_call_id": call.id, "content": "Rain"}
    turns = [HELLO, choice.message.model_dump(), result]
    plain = {"model": MODEL, "max_tokens": 1}
    answer = client.chat.completions.create(messages=turns, **plain)
    without = [HELLO, {"role": "assistant", "content": ""}, result]
    lost = client.chat.completions.create(messages=without, **plain)
    assert answer.usage.prompt_tokens > lost.usage.prompt_tokens


def test_a_streamed_call_is_the_same(client: OpenAI, question: dict[str, Any]) -> None:
    expected = client.chat.completions.create(**question).choices[0].message.tool_calls
    with client.chat.completions.stream(**question) as stream:
        for _ in stream:
            pass
        (choice,) = stream.get_final_completion().choices
    assert choice.finish_reason == "tool_calls"
    functions = [call.function.model_dump(exclude={"parsed_arguments"}) for call in expected]
    assert [
        call.function.model_dump(exclude={"parsed_arguments"}) for call in choice.message.tool_calls
    ] == functions


def test_the_prompt_describes_the_tools(client: OpenAI, question: dict[str, Any]) -> None:
    def prompt_tokens(**options: object) -> int:
        body = question | {"tool_choice": "none", "max_tokens": 1} | options
        answer = client.chat.completions.create(**body)
        return answer.usage.prompt_tokens

    as_text = [{"role": "system", "content": json.dumps(WEATHER)}, HELLO]
    assert prompt_tokens() == prompt_tokens(messages=as_text, tools=None, tool_choice=None)
