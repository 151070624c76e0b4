"""Functions of older lines as the tools that they are called today."""

from app.client.api import Json


class UnusablePrompt(Exception):
    """A line that cannot be sent as it is meant."""


def with_tools(chat: Json, body: Json) -> Json:
    """Return the request with the chat's `functions`, `function_call` and messages of role
    `function` as tools, calls and their answers. Raises `UnusablePrompt`.
    """
    body = body | {"messages": _messages(body["messages"])}
    if chat.get("functions"):
        if chat.get("tools"):
            raise UnusablePrompt("'functions' and 'tools' say the same in two ways; keep 'tools'")
        body["tools"] = [{"type": "function", "function": each} for each in chat["functions"]]
    match chat.get("function_call"):
        case str(choice):
            body["tool_choice"] = choice
        case {"name": name}:
            body["tool_choice"] = {"type": "function", "function": {"name": name}}
    return body


def _messages(messages: list[Json]) -> list[Json]:
    result = []
    ids: dict[str, str] = {}  # Id of the newest call, by the function's name.
    for number, message in enumerate(messages):
        fields = {name: value for name, value in message.items() if value is not None}
        if function := fields.pop("function_call", None):
            ids[function["name"]] = f"call{number:05d}"
            call = {"id": f"call{number:05d}", "type": "function", "function": function}
            fields = {"content": None} | fields | {"tool_calls": [call]}
        elif fields["role"] == "function":
            if fields.get("name") not in ids:
                raise UnusablePrompt(
                    "a message of role 'function' must name a function that was called before"
                )
            fields = {"role": "tool", "content": fields.get("content", "")}
            fields["tool_call_id"] = ids[message["name"]]
        else:
            fields = message
        result.append(fields)
    return result
