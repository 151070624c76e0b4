"""Validation of the fields that are passed to an engine unchanged: an engine that does not expect a
part fails instead of refusing it.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from app.base.errors import InvalidRequest
from app.models.json_schema_limits import SchemaLimits
from app.models.schema_tree import SchemaRefused

MAX_TOOLS = 128
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NAME_RULE = "1 to 64 letters, digits, _, - or ."
# Readers of `response_format`, by its type.
FIELDS: dict[str, set[str]] = {
    "text": set(),
    "json_object": {"schema"},
    "json_schema": {"json_schema"},
}
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")

Json = Mapping[str, Any]


def check_response_format(format: Json | None, limits: SchemaLimits) -> None:
    if format is None:
        return
    kind = format.get("type")
    if not isinstance(kind, str) or kind not in FIELDS:
        _refuse("response_format.type", f"it is one of {', '.join(FIELDS)}")
    if kind == "json_schema":
        described = format.get("json_schema")
        if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
            _refuse("response_format.json_schema", "it is an object with a schema")
        _check_schema(described["schema"], "response_format.json_schema.schema", limits)
    if kind == "json_object" and "schema" in format:
        _check_schema(format["schema"], "response_format.schema", limits)
    if others := format.keys() - FIELDS[kind] - {"type"}:
        _refuse(f"response_format.{min(others)[:80]}", f"'{kind}' has no such field; leave it out")


def check_tools(tools: Sequence[Json] | None, limits: SchemaLimits) -> None:
    names: set[str] = set()
    _check_number("tools", tools)
    for i, tool in enumerate(tools or ()):
        path = f"tools.{i}"
        if tool.get("type") != "function":
            _refuse(f"{path}.type", "models here call functions alone; write 'function'")
        _check_function(tool.get("function"), f"{path}.function", names, limits)


def check_functions(functions: Sequence[Json] | None, limits: SchemaLimits) -> None:
    """Check the form of functions, which came before `tools`."""
    names: set[str] = set()
    _check_number("functions", functions)
    for i, function in enumerate(functions or ()):
        _check_function(function, f"functions.{i}", names, limits)


def _check_number(path: str, tools: Sequence[Json] | None) -> None:
    if tools and len(tools) > MAX_TOOLS:
        _refuse(path, f"there are more than {MAX_TOOLS} of them; send fewer")


def _check_function(function: Any, path: str, names: set[str], limits: SchemaLimits) -> None:
    """Check a function, and add its name to the others."""
    if not isinstance(function, dict):
        _refuse(path, "it is an object with name, description and parameters")
    name = _check_name(function, path)
    if name in names:
        _refuse(f"{path}.name", f"two tools are called '{name}'; rename one")
    names.add(name)
    if not isinstance(function.get("description", ""), str):
        _refuse(f"{path}.description", "it is a text")
    parameters = function.get("parameters")
    if parameters is not None:
        if not isinstance(parameters, dict):
            _refuse(f"{path}.parameters", "it is a JSON schema, or left out")
        _check_schema(parameters, f"{path}.parameters", limits)


def check_tool_calls(calls: Sequence[Json] | None, path: str) -> None:
    for i, call in enumerate(calls or ()):
        place = f"{path}.{i}"
        if call.get("type") != "function":
            _refuse(f"{place}.type", "models here call functions alone; write 'function'")
        if not isinstance(call.get("id", ""), str):
            _refuse(f"{place}.id", "it is a text")
        function = call.get("function")
        if not isinstance(function, dict):
            _refuse(f"{place}.function", "it is an object with name and arguments")
        _check_name(function, f"{place}.function")
        if not isinstance(function.get("arguments"), str | dict):
            _refuse(f"{place}.function.arguments", "it is a text that holds a JSON object")


def check_parts(content: str | Sequence[Json] | None, path: str) -> None:
    if not isinstance(content, list):
        return
    for i, part in enumerate(content):
        kind = part.get("type")
        if kind not in TEXT_PARTS:
            _refuse(f"{path}.{i}.type", "models here read parts of the type 'text' alone")
        field = "refusal" if kind == "refusal" else "text"
        if not isinstance(part.get(field), str):
            _refuse(f"{path}.{i}.{field}", "it is a text")


def _check_name(function: Json, path: str) -> str:
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        _refuse(f"{path}.name", f"it has {NAME_RULE}")
    return name


def _check_schema(schema: Any, path: str, limits: SchemaLimits) -> None:
    try:
        limits.check(schema, path)
    except SchemaRefused as error:
        raise InvalidRequest(
            f"{error.path}: {error.reason}.", param=error.path, code="invalid_schema"
        ) from None


def _refuse(path: str, reason: str) -> NoReturn:
    raise InvalidRequest(f"{path}: {reason}.", param=path)
