"""Calls that are demanded of a model whose template has no tools, as clients demand them: the
questions are those that instructor, pydantic-ai and LangChain send.
"""

import json
from dataclasses import replace
from typing import Any

import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

from app.inference.rewriting import Document
from app.inference.tool_calls import ToolCallRewriter
from app.inference.tool_choice import CallPlan, Mode
from tests.support.api import Tenant

MODEL = "falqon-tiny"
HELLO = {"role": "user", "content": "Hello"}
COLOUR = {"enum": ["red", "blue"]}
# As pydantic writes a model within a model.
NESTED = {
    "type": "object",
    "properties": {"paint": {"$ref": "#/$defs/Paint"}},
    "required": ["paint"],
    "$defs": {"Paint": {"type": "object", "properties": {"c": COLOUR}, "required": ["c"]}},
}
FLAT = {"type": "object", "properties": {"c": COLOUR}, "required": ["c"]}


def tool(name: str, parameters: dict[str, Any], **fields: object) -> dict[str, Any]:
    function = {"name": name, "description": "Paint it.", "parameters": parameters} | fields
    return {"type": "function", "function": function}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.fixture
def client(tenant: Tenant) -> OpenAI:
    return tenant.client


CLIENTS: list[Any] = [
    pytest.param(
        {"tools": [tool("Wall", NESTED)], "tool_choice": named("Wall")}, "stop", id="instructor"
    ),
    pytest.param(
        {"tools": [tool("Wall", NESTED, strict=True)], "tool_choice": named("Wall")},
        "stop",
        id="instructor strict",
    ),
    pytest.param(
        {
            "tools": [tool("get", FLAT), tool("final_result", NESTED)],
            "tool_choice": "required",
        },
        "tool_calls",
        id="pydantic-ai",
    ),
    pytest.param(
        {
            "tools": [tool("Wall", NESTED)],
            "tool_choice": named("Wall"),
            "parallel_tool_calls": False,
        },
        "stop",
        id="langchain function_calling",
    ),
    pytest.param(
        {
            "tools": [tool("get", FLAT), tool("Wall", NESTED)],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "required", "tools": [named("Wall")]},
            },
        },
        "tool_calls",
        id="allowed tools",
    ),
]


@pytest.mark.parametrize(("demand", "finish_reason"), CLIENTS)
def test_a_demanded_call_is_made(
    client: OpenAI, demand: dict[str, Any], finish_reason: str
) -> None:
    question = {"model": MODEL, "messages": [HELLO], "temperature": 0, "max_tokens": 200}
    choice = client.chat.completions.create(**question, **demand).choices[0]
    assert choice.finish_reason == finish_reason
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    assert call.id.startswith("call_")
    functions = {each["function"]["name"]: each["function"] for each in demand["tools"]}
    is_nested = functions[call.function.name]["parameters"] is NESTED
    arguments = json.loads(call.function.arguments)
    assert (arguments["paint"] if is_nested else arguments)["c"] in COLOUR["enum"]
    with client.chat.completions.stream(**question, **demand) as stream:
        for _ in stream:
            pass
        (streamed,) = stream.get_final_completion().choices
    assert streamed.finish_reason == finish_reason
    (again,) = streamed.message.tool_calls
    assert (again.function.name, again.function.arguments) == (
        call.function.name,
        call.function.arguments,
    )


def test_each_of_several_answers_is_a_call(client: OpenAI) -> None:
    question = {"tools": [tool("f", FLAT)], "tool_choice": "required", "max_tokens": 200, "n": 2}
    answer = client.chat.completions.create(model=MODEL, messages=[HELLO], **question)
    assert [choice.message.tool_calls[0].function.name for choice in answer.choices] == ["f", "f"]
    chunks = client.chat.completions.create(
        model=MODEL, messages=[HELLO], stream=True, seed=1, **question
    )
    calls = {
        choice.index: choice.delta.tool_calls
        for chunk in chunks
        for choice in chunk.choices
        if choice.delta.tool_calls
    }
    assert sorted(calls) == [0, 1]


def test_a_call_cut_by_max_tokens_says_so(client: OpenAI) -> None:
    choice = client.chat.completions.create(
        model=MODEL,
        messages=[HELLO],
        tools=[tool("f", FLAT)],
        tool_choice="required",
        max_tokens=2,
    ).choices[0]
    assert choice.finish_reason == "length"


def test_the_older_form_of_functions(client: OpenAI) -> None:
    question = {
        "model": MODEL,
        "messages": [HELLO],
        "functions": [tool("f", FLAT)["function"]],
        "function_call": {"name": "f"},
        "max_tokens": 200,
    }
    choice = client.chat.completions.create(**question).choices[0]
    assert choice.message.tool_calls is None
    assert choice.message.function_call.name == "f"
    assert json.loads(choice.message.function_call.arguments)["c"] in COLOUR["enum"]
    chunks = client.chat.completions.create(**question, stream=True)
    deltas = [chunk.choices[0].delta.function_call for chunk in chunks if chunk.choices]
    (call,) = [delta for delta in deltas if delta]
    assert call.name == "f"


def test_the_prompt_describes_tools_where_the_template_has_none(client: OpenAI) -> None:
    def num_prompt_tokens(**options: object) -> int:
        messages = options.pop("messages", [HELLO])
        return client.chat.completions.create(
            model=MODEL, messages=messages, max_tokens=1, **options
        ).usage.prompt_tokens

    plain = num_prompt_tokens()
    offered = num_prompt_tokens(tools=[tool("f", FLAT)])
    assert offered > plain + 20
    assert num_prompt_tokens(tools=[tool("f", FLAT)], tool_choice="none") == plain
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It is red."},
    ]
    assert num_prompt_tokens(messages=turns, tools=[tool("f", FLAT)]) > offered + 20


def test_structured_outputs_of_vllm_are_a_shape(client: OpenAI) -> None:
    class Paint(BaseModel):
        c: str

    answer = client.chat.completions.create(
        model=MODEL, messages=[HELLO], extra_body={"structured_outputs": {"json": FLAT}}
    )
    assert Paint.model_validate_json(answer.choices[0].message.content).c in COLOUR["enum"]


@pytest.mark.parametrize(
    "choice", [named("g"), "any", {"type": "function"}, {"type": "allowed_tools"}, 3]
)
def test_a_choice_of_no_tool_is_refused(client: OpenAI, choice: Any) -> None:
    with pytest.raises(BadRequestError) as raised:
        client.chat.completions.create(
            model=MODEL, messages=[HELLO], tools=[tool("f", FLAT)], tool_choice=choice
        )
    assert (raised.value.param, raised.value.code) == ("tool_choice", "invalid_value")


OFFERED = CallPlan("text", frozenset({"f"}), "tool_calls", is_legacy=False)
CALL = '{"name": "f", "arguments": {"c": "red"}}'


def whole(plan: CallPlan, text: str) -> Document:
    """Return the choice of a whole answer."""
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    ToolCallRewriter(plan).rewrite({"choices": [choice]})
    return choice


def streamed(plan: CallPlan, parts: list[str]) -> Document:
    """Return the choice that a stream of these texts adds up to; the last part ends it."""
    rewriter = ToolCallRewriter(plan)
    content, calls = "", []
    for number, part in enumerate(parts, start=1):
        finish_reason = "stop" if number == len(parts) else None
        event = {"choices": [{"delta": {"content": part}, "finish_reason": finish_reason}]}
        for each in rewriter.rewrite_event(event):
            (choice,) = each["choices"]
            content += choice["delta"].get("content", "")
            calls += choice["delta"].get("tool_calls", ())
    message = {"content": content or None} | ({"tool_calls": calls} if calls else {})
    return {"message": message, "finish_reason": choice["finish_reason"]}


def said(choice: Document) -> tuple[str | None, list[Document], str]:
    calls = choice["message"].get("tool_calls", ())
    functions = [call["function"] for call in calls]
    return choice["message"]["content"], functions, choice["finish_reason"]


@pytest.mark.parametrize(
    ("text", "num_calls"),
    [
        (CALL, 1),
        (f"\n```json\n{CALL}\n```", 1),
        (f"{CALL}\n{CALL}", 2),
        (f"[{CALL}, {CALL}]", 2),
        (f"</think>{CALL}", 1),
        ("Hello", 0),
        ('{"name": "g", "arguments": {}}', 0),
        (f"{CALL} and so on", 0),
        (CALL[:-1], 0),
        ("[" * 100_000, 0),
    ],
)
def test_an_offered_call_is_read_where_the_text_is_nothing_else(text: str, num_calls: int) -> None:
    _, calls, finish_reason = said(whole(OFFERED, text))
    assert len(calls) == num_calls
    assert finish_reason == ("tool_calls" if num_calls else "stop")


THOUGHTS = "<think>\nIs it {red}?\n</think>"
ANSWERS: dict[str, tuple[str | None, int]] = {  # by text: what it says beside its calls
    CALL: (None, 1),
    f"{THOUGHTS}\n\n{CALL}": (THOUGHTS, 1),
    f"Red?</think>[{CALL}, {CALL}]\n": ("Red?</think>", 2),
    f"{THOUGHTS}{{no}}</think>{CALL}": (f"{THOUGHTS}{{no}}</think>", 1),
    f"{THOUGHTS}No</think> {CALL}": (f"{THOUGHTS}No</think>", 1),
}
TEXTS = (f" {CALL[:-1]}", "  Hello {x}", f"{THOUGHTS} Red.", f"{THOUGHTS}{CALL} it is", "<think>{")


@pytest.mark.parametrize("mode", ["text", "forced"])
@pytest.mark.parametrize("size", [1, 3, 10, 1000])
@pytest.mark.parametrize("text", [*ANSWERS, *TEXTS])
def test_a_stream_says_what_the_whole_answer_says(mode: Mode, text: str, size: int) -> None:
    plan = replace(OFFERED, mode=mode)
    content, functions, finish_reason = said(whole(plan, text))
    if mode == "text" or text in ANSWERS:
        assert (content, len(functions)) == ANSWERS.get(text, (text, 0))
    parts = [text[i : i + size] for i in range(0, len(text), size)]
    assert said(streamed(plan, parts)) == (content, functions, finish_reason)


def test_reasoning_before_a_call_is_streamed_as_it_comes() -> None:
    rewriter = ToolCallRewriter(OFFERED)
    contents = []
    for part in ("<think>", "Red.", "</think>", CALL):
        event = {"choices": [{"delta": {"content": part}, "finish_reason": None}]}
        contents += [
            each["choices"][0]["delta"]["content"] for each in rewriter.rewrite_event(event)
        ]
    assert contents == ["<think>", "Red.", "</think>"]
