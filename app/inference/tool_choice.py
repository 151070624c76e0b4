"""Tools of a request, and its required answer: a call, or the model's choice.

A required call is an answer of a JSON schema, `{"name": …, "arguments": …}`, which an engine can
hold every model to. If the model's chat template has no tools, the prompt describes them as a text.
"""

import json
from dataclasses import dataclass
from typing import Any, Literal

from app.base.errors import InvalidRequest
from app.inference.engine_traits import EngineTraits
from app.inference.schemas import ChatCompletionRequest

# native: the engine parses calls; forced: the answer is one; text: it may be one.
Mode = Literal["native", "forced", "text"]
Fields = dict[str, Any]

ANY_OBJECT = {"type": "object"}
CALL_FORM = '{"name": NAME, "arguments": {…}}'


@dataclass(frozen=True, slots=True)
class Choice:
    """Choice of functions. `functions`: by name, those that may be called."""

    kind: Literal["auto", "none", "required", "named"]
    functions: dict[str, Fields]


@dataclass(frozen=True, slots=True)
class CallPlan:
    mode: Mode
    names: frozenset[str]
    finish_reason: str
    is_legacy: bool


class _ChoiceRefused(ValueError):
    pass


def plan_calls(
    body: ChatCompletionRequest, fields: Fields, traits: EngineTraits
) -> tuple[Fields, CallPlan]:
    """Return the engine's request and the parser of its response. Raises `InvalidRequest`."""
    try:
        choice = _choice_of(body)
    except _ChoiceRefused as refusal:
        field = "tool_choice" if body.function_call is None else "function_call"
        raise InvalidRequest(f"{field}: {refusal}.", param=field) from None
    names = frozenset(choice.functions)
    match choice.kind:
        case "required" | "named":
            finish_reason = "tool_calls" if choice.kind == "required" else "stop"
            plan = CallPlan("forced", names, finish_reason, body.is_legacy)
            fields = fields | {"response_format": _shape(choice.functions, None)}
            fields = fields | {"tools": _tools_of(choice), "tool_choice": "none"}
            fields.pop("parallel_tool_calls", None)
        case "auto" if not traits.template_has_tools:
            plan = CallPlan("text", names, "tool_calls", body.is_legacy)
            answer = fields.get("response_format")
            if answer and answer.get("type") == "json_schema":
                fields = fields | {"response_format": _shape(choice.functions, answer)}
        case _:
            plan = CallPlan("native", names, "tool_calls", body.is_legacy)
            if choice.kind == "auto":
                fields = fields | {"tools": _tools_of(choice), "tool_choice": "auto"}
    if traits.template_has_tools:
        return fields, plan
    kept = ("tools", "tool_choice", "parallel_tool_calls")
    fields = {name: value for name, value in fields.items() if name not in kept}
    messages = _as_texts(fields["messages"])
    if choice.kind != "none":
        instruction = _instruction(choice, may_answer=plan.mode == "text")
        messages = _add_instruction(messages, instruction, traits)
    return fields | {"messages": messages}, plan


def _choice_of(body: ChatCompletionRequest) -> Choice:
    offered: list[Any] = body.tools or []
    functions: dict[str, Fields] = {tool["function"]["name"]: tool["function"] for tool in offered}
    chosen: Any = body.tool_choice
    if chosen is None:
        chosen = "auto" if functions else "none"
    if isinstance(chosen, dict) and chosen.get("type") == "allowed_tools":
        allowed = chosen.get("allowed_tools")
        if not isinstance(allowed, dict) or not isinstance(allowed.get("tools"), list):
            raise _ChoiceRefused("allowed_tools need their 'mode' and 'tools'")
        functions = dict(_find(functions, _name_of(tool)) for tool in allowed["tools"])
        chosen = allowed.get("mode")
    if isinstance(chosen, dict):
        return Choice("named", dict([_find(functions, _name_of(chosen))]))
    match chosen:
        case "none":
            return Choice("none", functions)
        case "auto" | "required" if functions:
            return Choice(chosen, functions)
        case "auto":
            return Choice("none", {})
        case "required":
            raise _ChoiceRefused("'required' needs tools")
    raise _ChoiceRefused("write 'none', 'auto', 'required', or the function to call")


def _name_of(choice: Any) -> str:
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(name, str):
        raise _ChoiceRefused("a function is chosen by its 'name'")
    return name


def _find(functions: dict[str, Fields], name: str) -> tuple[str, Fields]:
    if name not in functions:
        raise _ChoiceRefused(f"'{name[:64]}' is none of the tools")
    return name, functions[name]


def _tools_of(choice: Choice) -> list[Fields]:
    return [{"type": "function", "function": each} for each in choice.functions.values()]


def _shape(functions: dict[str, Fields], answer: Fields | None) -> Fields:
    """Return the schema of a call of one of the functions, or of the answer's own schema.

    Each schema stands below `$defs`, where its references to itself lead then.
    """
    definitions: Fields = {}
    calls: list[Fields] = []
    for i, (name, function) in enumerate(functions.items()):
        parameters = function.get("parameters") or ANY_OBJECT
        definitions[f"arguments_{i}"] = _move_references(parameters, f"#/$defs/arguments_{i}")
        properties = {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/arguments_{i}"}}
        calls.append(ANY_OBJECT | {"properties": properties} | _ALL_OF_A_CALL)
    if answer is not None:
        schema = (answer.get("json_schema") or {}).get("schema") or {}
        definitions["answer"] = _move_references(schema, "#/$defs/answer")
        calls.append({"$ref": "#/$defs/answer"})
    root = calls[0] if len(calls) == 1 else {"anyOf": calls}
    schema = root | {"$defs": definitions}
    return {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}


_ALL_OF_A_CALL: Fields = {"required": ["name", "arguments"], "additionalProperties": False}


def _move_references(schema: Any, root: str) -> Any:
    """Return a schema whose references to its own root point to its new place."""
    if isinstance(schema, list):
        return [_move_references(each, root) for each in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _move_references(value, root) for name, value in schema.items()}
    reference = moved.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = root + reference[1:]
    return moved


def _instruction(choice: Choice, *, may_answer: bool) -> str:
    described = "\n".join(
        json.dumps(function, ensure_ascii=False) for function in choice.functions.values()
    )
    demand = (
        f"To call a function, answer with nothing but {CALL_FORM}."
        if may_answer
        else f"Call one of them: answer with nothing but {CALL_FORM}."
    )
    return f"You can call these functions:\n{described}\n{demand}"


def _add_instruction(
    messages: list[Fields], instruction: str, traits: EngineTraits
) -> list[Fields]:
    """Add the instruction to the system's words, or to the user's where there are no others."""
    role = "system" if traits.template_has_system else "user"
    first, *others = messages
    if first["role"] != role:
        return [{"role": role, "content": instruction}, *messages]
    content = first.get("content") or ""
    if isinstance(content, str):
        return [first | {"content": f"{content}\n\n{instruction}".strip()}, *others]
    return [first | {"content": [*content, {"type": "text", "text": instruction}]}, *others]


def _as_texts(messages: list[Fields]) -> list[Fields]:
    """Return turns with calls or their results in the form of a template without tools: consecutive
    results are one turn of the user.
    """
    turns: list[Fields] = []
    results: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            results.append(f"Result of the call:\n{_text_of(message)}")
            continue
        if results:
            turns.append({"role": "user", "content": "\n\n".join(results)})
            results = []
        turns.append(_as_text(message))
    if results:
        turns.append({"role": "user", "content": "\n\n".join(results)})
    return turns


def _as_text(message: Fields) -> Fields:
    calls = message.get("tool_calls")
    if not calls:
        return message
    texts = [_text_of(message), *(_call_as_text(call) for call in calls)]
    return {"role": "assistant", "content": "\n".join(text for text in texts if text)}


def _text_of(message: Fields) -> str:
    content = message.get("content") or ""
    if isinstance(content, list):
        return "\n".join(str(part.get("text", "")) for part in content)
    return str(content)


def _call_as_text(call: Fields) -> str:
    function = call.get("function")
    if not isinstance(function, dict):
        return json.dumps(call)
    name, arguments = json.dumps(function.get("name")), function.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments)
    return f'{{"name": {name}, "arguments": {arguments or "{}"}}}'
