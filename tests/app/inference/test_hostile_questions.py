"""Questions that once ended the engine, or kept it from everyone: each is refused with its place,
or answered at once by the engine that was there before.
"""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from openai.lib._parsing._completions import type_to_response_format_param
from pydantic import BaseModel, Field

from tests.support.api import Api, Tenant
from tests.support.backend import processes

HELLO = [{"role": "user", "content": "Hello"}]
SECONDS = 5.0
RESPONSE = "response_format.json_schema.schema"


def chain(length: int, keyword: str | None = None) -> dict[str, Any]:
    """Return definitions that lead from one to the next."""

    def link(i: int) -> dict[str, Any]:
        reference = {"$ref": f"#/$defs/d{i}"}
        match keyword:
            case None:
                return reference
            case "items":
                return {"type": "array", "items": reference}
        return {keyword: [reference]}

    return link(0) | {"$defs": {f"d{i}": link(i + 1) for i in range(length)} | {f"d{length}": {}}}


def properties(count: int, value: dict[str, Any], are_required: bool = True) -> dict[str, Any]:
    names = [f"p{i}" for i in range(count)]
    required = names if are_required else []
    return {"type": "object", "properties": dict.fromkeys(names, value), "required": required}


def text_of(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern}


BACKWARDS = {"type": "array", "items": {}, "minItems": 5, "maxItems": 2}
SCHEMAS: dict[str, Any] = {
    "items backwards": BACKWARDS,
    "items backwards, deep": {"type": "object", "properties": {"a": BACKWARDS}},
    "lengths backwards": {"type": "string", "minLength": 5, "maxLength": 2},
    "repetition backwards": text_of("^a{5,2}$"),
    "repetitions": text_of("^" + "a{1,1999}" * 2_000 + "$"),
    "a name": {"type": "object", "properties": {"!" * 50_000: {"type": "string"}}},
    "references": chain(4_000),
    "references in anyOf": chain(2_500, "anyOf"),
    "references in allOf": chain(2_500, "allOf"),
    "references in items": chain(2_500, "items"),
    "an enum": {"enum": [f"value{i}" for i in range(19_000)]},
    "alternatives in a pattern": text_of("^(" + "|".join(["ab"] * 200_000) + ")$"),
    "groups in a pattern": text_of("^" + "(" * 100_000 + "a" + ")" * 100_000 + "$"),
    "bounded integers": properties(2_000, {"type": "integer", "minimum": 7, "maximum": 10**9}),
    "optional properties": properties(3_000, {"type": "string"}, are_required=False),
    "anyOf": {"anyOf": [{"type": "object"}] * 9_000},
    "nullable repetitions": text_of("^" + "(a?){400}" * 50 + "$"),
    "open repetitions": text_of("^" + "a*" * 240 + "b$"),
    "choices within choices": {
        "$ref": "#/$defs/a",
        "$defs": {
            "a": {
                "anyOf": [
                    {"type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 5},
                    {"type": "array", "items": {"$ref": "#/$defs/a"}, "maxItems": 6},
                ]
            }
        },
    },
    "itself": {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
    "an escape that no engine reads": text_of("^\\d+$"),
}


def fields_of(schema: Any, is_tool: bool) -> dict[str, Any]:
    if is_tool:
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        return {"tools": [tool], "tool_choice": "required"}
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return {"response_format": shape}


@pytest.fixture
def engine(api: Api) -> Iterator[None]:
    """Check that the same engine is there after the test."""
    folder = str(api.settings.data_dir.resolve())
    before = processes("worker.inference.llama_cpp", folder)
    yield
    assert processes("worker.inference.llama_cpp", folder) == before
    assert before


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("is_tool", [False, True], ids=["answer", "tool"])
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_that_broke_the_engine_is_refused(
    tenant: Tenant, name: str, is_tool: bool
) -> None:
    body = {"model": "falqon-tiny", "messages": HELLO, "max_tokens": 4}
    started = time.monotonic()
    answer = tenant.http.post("/v1/chat/completions", json=body | fields_of(SCHEMAS[name], is_tool))
    assert time.monotonic() < started + SECONDS
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] in ("invalid_schema", "invalid_value"), error
    if error["code"] == "invalid_schema":
        place = "tools.0.function.parameters" if is_tool else RESPONSE
        assert error["param"].startswith(place), error
    else:
        assert "values" in error["message"] or "levels" in error["message"], error


def call(**fields: object) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [fields]}


def part(**fields: object) -> dict[str, Any]:
    return {"role": "user", "content": [fields]}


FUNCTION = {"name": "f", "arguments": "{}"}
TOOL = {"type": "function", "function": {"name": "f"}}


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("question", "param"),
    [
        ({"tools": [{}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools.0.function.name"),
        ({"tools": [TOOL, TOOL]}, "tools.1.function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "description": None}}]},
            "tools.0.function.description",
        ),
        ({"messages": [call()]}, "messages.0.tool_calls.0.type"),
        ({"messages": [call(type="function")]}, "messages.0.tool_calls.0.function"),
        (
            {"messages": [call(type="function", function={"name": "f"})]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        (
            {"messages": [call(type="function", function=FUNCTION, id=5)]},
            "messages.0.tool_calls.0.id",
        ),
        ({"messages": [part(type="video_url", video_url={})]}, "messages.0.content"),
        ({"messages": [part(type="picture")]}, "messages.0.content.0"),
        ({"messages": [part(type="text")]}, "messages.0.content.0.text"),
        ({"messages": [part(text="x")]}, "messages.0.content.0"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "text", "schema": BACKWARDS}}, "response_format.schema"),
        (
            {"response_format": {"type": "json_object", "schema": BACKWARDS}},
            "response_format.schema.maxItems",
        ),
        ({"n": 129}, "n"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"functions": ["f"]}, "functions.0"),
        ({"functions": [{}]}, "functions.0.name"),
        ({"functions": [FUNCTION, FUNCTION]}, "functions.1.name"),
        (
            {"functions": [{"name": "f", "parameters": BACKWARDS}]},
            "functions.0.parameters.maxItems",
        ),
        ({"functions": [{"name": "f"}] * 129}, "functions"),
        ({"functions": [FUNCTION], "function_call": {"name": "g"}}, "function_call"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "g"}}}, "tool_choice"),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(
    tenant: Tenant, question: dict[str, Any], param: str
) -> None:
    body = {"model": "falqon-tiny", "messages": HELLO, "max_tokens": 1} | question
    answer = tenant.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param
    assert error["message"].startswith(param)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("is_tool", [False, True], ids=["answer", "tool"])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": True}, "required": ["a"]},
        {"type": "array", "items": True, "maxItems": 2},
        {"anyOf": [True, {"type": "null"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": True}},
    ],
)
def test_a_schema_of_true_takes_anything(
    tenant: Tenant, schema: dict[str, Any], is_tool: bool
) -> None:
    body = {"model": "falqon-tiny", "messages": HELLO, "max_tokens": 4}
    answer = tenant.http.post("/v1/chat/completions", json=body | fields_of(schema, is_tool))
    assert answer.status_code == 200, answer.text


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("schema", "is_strict", "place", "words"),
    [
        ({"type": "object", "properties": {"a": False}}, False, ".properties.a", "'false'"),
        ({"anyOf": [False, {"type": "null"}]}, False, ".anyOf.0", "'false'"),
        ({"type": "array", "prefixItems": [{}], "items": False}, False, ".items", "'false'"),
        ({"type": "integer", "minimum": 0.5}, False, ".minimum", "whole number"),
        ({"type": ["integer", "null"], "maximum": -0.5}, False, ".maximum", "whole number"),
        ({"type": "string", "not": {"const": "a"}}, True, ".not", "no engine here follows 'not'"),
        (properties(1, {"if": {}, "then": {}}), True, ".properties.p0.if", "follows 'if'"),
    ],
)
def test_a_schema_that_no_engine_follows_is_refused(
    tenant: Tenant, schema: dict[str, Any], is_strict: bool, place: str, words: str
) -> None:
    shape = {"name": "n", "schema": schema, "strict": is_strict}
    body = {"model": "falqon-tiny", "messages": HELLO, "max_tokens": 4}
    format = {"type": "json_schema", "json_schema": shape}
    answer = tenant.http.post("/v1/chat/completions", json=body | {"response_format": format})
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == ("invalid_schema", RESPONSE + place)
    assert words in error["message"]


@pytest.mark.usefixtures("engine")
def test_bounds_that_pydantic_writes_are_accepted(tenant: Tenant) -> None:
    class Item(BaseModel):
        price: float = Field(gt=0.5, multiple_of=0.25)

    answer = tenant.client.chat.completions.create(
        model="falqon-tiny",
        messages=HELLO,
        max_tokens=4,
        response_format=type_to_response_format_param(Item),
    )
    assert answer.choices


def test_as_many_answers_as_an_engine_writes_at_once(tenant: Tenant) -> None:
    body = {"model": "falqon-tiny", "messages": HELLO, "max_tokens": 1, "n": 4}
    answer = tenant.http.post("/v1/chat/completions", json=body)
    assert len(answer.json()["choices"]) == 4
