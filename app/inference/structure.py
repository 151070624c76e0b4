"""Validation of the fields that are passed to an engine, which fails at a part that it does not
expect instead of refusing it. Only a schema of `true` is written in another way.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from app.base.errors import InvalidRequest
from app.models.json_schema_limits import BOUNDS, SchemaLimits
from app.models.schema_tree import Schema, SchemaRefused, children, walk, without_true

MAX_TOOLS = 128
NAME_PATTERN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
NAME_RULE = "1 to 64 letters, digits, _, - or ."
# Readers of `response_format`, by its type.
FORMAT_FIELDS: dict[str, set[str]] = {
    "text": set(),
    "json_object": {"schema"},
    "json_schema": {"json_schema"},
}
TEXT_PARTS = ("text", "input_text", "output_text", "refusal")
# Keywords that engines here do not follow. OpenAI refuses them with `strict`, too; pydantic, which
# the official client uses, writes others that are not followed, and checks the answers itself.
NOT_FOLLOWED = frozenset({"not", "if", "then", "else", "dependentSchemas", "dependentRequired"})
MAY_BE_FALSE = tuple(
    f"{kind}{noun}" for kind in ("additional", "unevaluated") for noun in ("Properties", "Items")
)
FALSE_REFUSED = "no value fits 'false'; leave it out"

Json = Mapping[str, Any]


def check_response_format(format: Schema | None, limits: SchemaLimits) -> None:
    if format is None:
        return
    kind = format.get("type")
    if not isinstance(kind, str) or kind not in FORMAT_FIELDS:
        _refuse("response_format.type", f"it is one of {', '.join(FORMAT_FIELDS)}")
    if kind == "json_schema":
        described = format.get("json_schema")
        if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
            _refuse("response_format.json_schema", "it is an object with a schema")
        path = "response_format.json_schema.schema"
        described["schema"] = _checked_schema(described["schema"], path, limits, described)
    if kind == "json_object" and "schema" in format:
        format["schema"] = _checked_schema(format["schema"], "response_format.schema", limits, {})
    if others := format.keys() - FORMAT_FIELDS[kind] - {"type"}:
        _refuse(f"response_format.{min(others)[:80]}", f"'{kind}' has no such field; leave it out")


def check_tools(tools: Sequence[Json] | None, limits: SchemaLimits, *, is_legacy: bool) -> None:
    """Check tools, which the client has sent as `functions` if the request `is_legacy`."""
    field = "functions" if is_legacy else "tools"
    if tools and len(tools) > MAX_TOOLS:
        _refuse(field, f"there are more than {MAX_TOOLS} of them; send fewer")
    names: set[str] = set()
    for i, tool in enumerate(tools or ()):
        path = f"{field}.{i}"
        if tool.get("type") != "function":
            _refuse(f"{path}.type", "models here call functions alone; write 'function'")
        place = path if is_legacy else f"{path}.function"
        _check_function(tool.get("function"), place, names, limits)


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
        place = f"{path}.parameters"
        function["parameters"] = _checked_schema(parameters, place, limits, function)


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
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        _refuse(f"{path}.name", f"it has {NAME_RULE}")
    return name


def _checked_schema(schema: Any, path: str, limits: SchemaLimits, described: Json) -> Any:
    """Return the schema as every engine reads it. Its description may demand `strict`."""
    schema = without_true(schema)
    try:
        limits.check(schema, path)
        _check_followed(schema, path, is_strict=described.get("strict") is True)
    except SchemaRefused as error:
        raise InvalidRequest(
            f"{error.path}: {error.reason}.", param=error.path, code="invalid_schema"
        ) from None
    return schema


def _check_followed(schema: Any, path: str, *, is_strict: bool) -> None:
    """Refuse parts that no engine here follows, of those that pydantic never writes."""
    if schema is False:
        raise SchemaRefused(path, FALSE_REFUSED)
    for node, place, _, _ in walk(schema, path):
        open_places = {f"{place}.{keyword}" for keyword in MAY_BE_FALSE}
        for child, child_path, _ in children(node, place):
            if child is False and child_path not in open_places:
                raise SchemaRefused(child_path, FALSE_REFUSED)
        if is_strict and (keywords := NOT_FOLLOWED & node.keys()):
            keyword = min(keywords)
            raise SchemaRefused(
                f"{place}.{keyword}", f"no engine here follows '{keyword}'; write it without"
            )
        types = node.get("type")
        if "integer" in (types if isinstance(types, list) else [types]):
            for bound in BOUNDS:
                if node.get(bound, 0) % 1:
                    raise SchemaRefused(
                        f"{place}.{bound}", "the bound of an integer is a whole number; round it"
                    )


def _refuse(path: str, reason: str) -> NoReturn:
    raise InvalidRequest(f"{path}: {reason}.", param=path)
