"""Questions made to break an engine: schemas, tools, patterns and variables of templates, at and
beyond every limit. The same seed makes the same ones.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

HELLO = {"role": "user", "content": "Hello"}
SIZES = (0, 1, 2, 7, 20, 50, 99, 101, 200, 300, 999, 2_001, 6_000)
TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
JUNK = (None, 0, "", [], {}, True, [[]], {"type": None}, "x" * 5_000, -1.5)
# Mostly what is taken, so that the engine is reached; in one of 30 places what is not.
WILD = 1 / 30
NAMES = ("a", "b", "l", "t", "", "é", '"', "^", "-", "日本", "x" * 200)
WILD_NAMES = ("\\", "]", "$ref", "a/b", "!" * 300, "x" * 60_000, "\0")
COUNTS = (0, 1, 2, 5, 20, 100, 999)
WILD_COUNTS = (-1, 1_001, 2_001, 2**31, 2**63, 10**30, 1e300, 0.5, "5", None)
PIECES = (
    *("a", "b", "é", ".", "[a-z]", "[^a]", "\\.", "\\n", '"', "a*", "a+", ".*", "a?", "a{2}"),
    *("a{0,9}", ".{1,99}", "(a|b)", "(a|aa)+", "(ab?)*", "(?:a*b*)", "(a{1,9}){1,4}", "|", '[^"]+'),
)
WILD_PIECES = (
    *("\\d", "\\w", "\\", "(", ")", "[", "]", "{", "}", "**", "{9,1}", "{1,1999}", "{,}", "^", "$"),
    *("(?=a)", "(a?){400}", "(a*){99}", "((a+)+){20}", "\0"),
)


def hostile_questions(count: int, seed: int) -> Iterator[dict[str, Any]]:
    rng = random.Random(seed)
    makers = (*[_shaped] * 4, *[_with_tools] * 3, _bomb, _bomb, _malformed, _templated)
    for _ in range(count):
        question = {"messages": [HELLO], "max_tokens": rng.randint(1, 24)}
        yield question | rng.choice(makers)(rng)


def _pick(rng: random.Random, usual: Sequence[Any], wild: Sequence[Any]) -> Any:
    return rng.choice(wild if rng.random() < WILD else usual)


def _shaped(rng: random.Random) -> dict[str, Any]:
    return _response_format(_whole_schema(rng)) | _common(rng)


def _with_tools(rng: random.Random) -> dict[str, Any]:
    tools = [_tool(f"f{i}", _whole_schema(rng)) for i in range(rng.choice((1, 1, 2, 5)))]
    return {"tools": tools, "tool_choice": rng.choice(("auto", "required", "none"))} | _common(rng)


def _bomb(rng: random.Random) -> dict[str, Any]:
    """Return something small that is large in one way."""
    size = rng.choice(SIZES)
    names = [f"p{i}" for i in range(size)]
    bounded: dict[str, Any] = {"type": "integer", "minimum": -size, "maximum": 10**9 + size}
    node = {"$ref": "#/$defs/node"}
    schemas: list[Any] = [
        {"type": "object", "properties": {"!" * (10 * size): {}}},
        {"enum": names},
        {"anyOf": [{"const": name} for name in names]},
        {"type": "object", "properties": {name: {"type": "string"} for name in names}},
        {"type": "object", "properties": dict.fromkeys(names, bounded), "required": names},
        {"type": "string", "pattern": "^" + _pick(rng, PIECES, WILD_PIECES) * size + "$"},
        {"type": "string", "pattern": "^" + "(" * size + "a" + ")" * size + "$"},
        {"type": "string", "minLength": size, "maxLength": rng.choice(SIZES)},
        {"type": "array", "items": {}, "minItems": size, "maxItems": rng.choice(SIZES)},
        _chain(size, rng.choice(("", "anyOf", "allOf", "items"))),
        {
            **node,
            "$defs": {
                "node": {
                    rng.choice(("anyOf", "oneOf")): [
                        {"type": "array", "items": node, "maxItems": i + 2} for i in range(size % 9)
                    ]
                }
            },
        },
    ]
    schema = rng.choice(schemas)
    if rng.random() < 0.5:
        return _response_format(schema) | _common(rng)
    return {"tools": [_tool("f", schema)], "tool_choice": "required"} | _common(rng)


def _malformed(rng: random.Random) -> dict[str, Any]:
    """Return a field with a part that is of another kind."""
    junk = rng.choice(JUNK)
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tool = _tool("f", {})
    questions: list[dict[str, Any]] = [
        {"tools": [_spoilt(rng, tool, junk)]},
        {"messages": [HELLO, {"role": "assistant", "tool_calls": [_spoilt(rng, call, junk)]}]},
        {"messages": [{"role": "user", "content": [_spoilt(rng, _part(rng), junk)]}]},
        {"response_format": _spoilt(rng, _response_format({})["response_format"], junk)},
        {"tools": [tool], "tool_choice": junk},
        {"n": _pick(rng, COUNTS, WILD_COUNTS)},
    ]
    return rng.choice(questions)


def _templated(rng: random.Random) -> dict[str, Any]:
    """Return variables that a template may see, and text like its own."""
    names = ("enable_thinking", "messages", "tools", "add_generation_prompt", "bos_token", "x")
    text = rng.choice(("{{ 1 }}", "<|im_start|>", "{% for %}", "\0", "<tool_call>{", "a" * 900))
    return {
        "chat_template_kwargs": {rng.choice(names): rng.choice(JUNK)},
        "messages": [
            {"role": rng.choice(("user", "system", "assistant", "tool")), "content": text}
        ],
    }


def _common(rng: random.Random) -> dict[str, Any]:
    fields: dict[str, Any] = {"temperature": rng.choice((0, 1, 2))}
    if rng.random() < 0.2:
        fields["n"] = rng.randint(1, 4)
    if rng.random() < 0.2:
        fields["stop"] = [rng.choice(NAMES[:4]) or "a"]
    return fields


def _response_format(schema: Any) -> dict[str, Any]:
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    return {"response_format": shape}


def _tool(name: str, schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def _part(rng: random.Random) -> dict[str, Any]:
    return {"type": rng.choice(("text", "video_url", "input_text", "x")), "text": "Hello"}


def _spoilt(rng: random.Random, value: dict[str, Any], junk: Any) -> dict[str, Any]:
    """Return it without one of its fields, or with junk in its place, here or below."""
    name = rng.choice(list(value))
    if isinstance(value[name], dict) and value[name] and rng.random() < 0.6:
        return value | {name: _spoilt(rng, value[name], junk)}
    if rng.random() < 0.4:
        return {key: other for key, other in value.items() if key != name}
    return value | {name: junk}


def _chain(length: int, keyword: str) -> dict[str, Any]:
    def link(i: int) -> dict[str, Any]:
        reference = {"$ref": f"#/$defs/d{i}"}
        if not keyword:
            return reference
        return {keyword: reference if keyword == "items" else [reference]}

    return link(0) | {"$defs": {f"d{i}": link(i + 1) for i in range(length)} | {f"d{length}": {}}}


def _whole_schema(rng: random.Random) -> Any:
    schema = _schema(rng, rng.randint(1, 5))
    if isinstance(schema, dict):
        schema["$defs"] = {name: _schema(rng, 2) for name in NAMES[:4]}
    return schema


def _schema(rng: random.Random, depth: int) -> Any:
    if rng.random() < WILD / 10:
        return rng.choice(JUNK)
    if depth == 0 or rng.random() < 0.25:
        return _leaf(rng)
    below = [_schema(rng, depth - 1) for _ in range(rng.randint(1, 4))]
    match rng.randrange(5):
        case 0 | 1:
            names = rng.sample(WILD_NAMES if rng.random() < WILD else NAMES, len(below))
            properties = dict(zip(names, below, strict=True))
            node: dict[str, Any] = {"type": "object", "properties": properties}
            node["required"] = rng.sample(names, rng.randint(0, len(names)))
            if rng.random() < 0.3:
                node["additionalProperties"] = rng.choice((True, False, below[0]))
            return node
        case 2:
            return {"type": "array", "items": below[0]} | _bounds(rng, "minItems", "maxItems")
        case 3:
            return {rng.choice(("anyOf", "oneOf", "allOf", "prefixItems")): below}
    return {"type": rng.sample(TYPES, 2), "items": below[0]}


def _leaf(rng: random.Random) -> Any:
    match rng.randrange(6):
        case 0:
            return {"$ref": f"#/$defs/{_pick(rng, NAMES[:4], WILD_NAMES)}"}
        case 1:
            return {"enum": [rng.choice(NAMES) for _ in range(rng.randint(1, 5))]}
        case 2:
            pieces = [_pick(rng, PIECES, WILD_PIECES) for _ in range(rng.randint(0, 12))]
            pattern = "".join(pieces)
            return {"type": "string", "pattern": f"^{pattern}$"}
        case 3:
            return {"type": "string"} | _bounds(rng, "minLength", "maxLength")
        case 4:
            kind = rng.choice(("integer", "number"))
            return {"type": kind} | _bounds(rng, "minimum", "exclusiveMaximum")
    return {"type": rng.choice(TYPES), "format": rng.choice(("date", "uuid", "x"))}


def _bounds(rng: random.Random, *names: str) -> dict[str, Any]:
    bounds = [_pick(rng, COUNTS, WILD_COUNTS) for _ in names]
    if rng.random() > WILD and all(isinstance(bound, int) for bound in bounds):
        bounds.sort()
    return {name: bound for name, bound in zip(names, bounds, strict=True) if rng.random() < 0.6}
