"""Calls of tools and their answers, as they are written: without ids, with arguments as objects, or
as `function_call` and role `function`, which were there before tools.
"""

import json
from collections import deque
from typing import Any, Literal

from falqon_core.records.jsonl import Unusable

CallRewrite = Literal["functions", "arguments_as_object", "tool_call_ids"]


class ToolCalls:
    """The calls of one line; `rewrites` names what was rewritten, `ignored` what was left out."""

    def __init__(self) -> None:
        self.rewrites: set[CallRewrite] = set()
        self.num_ids = 0  # Ids made so far.
        self._ids_by_name: dict[str, str] = {}  # Id of a function's last `function_call`.
        # Calls without an answer, the earliest first; answered ones are passed over.
        self._open: deque[str] = deque()
        self._open_by_name: dict[str, deque[str]] = {}
        self._answered: set[str] = set()

    def read(self, call: Any, path: tuple[int | str, ...]) -> Any:
        """Return a call with an id, and with its arguments as a text. Raises `Unusable`."""
        if not isinstance(call, dict):
            return call
        if call.get("type") == "custom":
            message = "custom tools are not supported"
            advice = "write the call as a function with JSON arguments, or remove the line"
            raise Unusable((*path, "type"), message, advice, "custom_tools_not_supported")
        result = {key: inner for key, inner in call.items() if inner is not None}
        if "function" not in result and "name" in result:
            message = "the call has its name beside 'function', not in it"
            advice = 'write {"type": "function", "function": {"name": …, "arguments": …}}'
            raise Unusable((*path, "name"), message, advice, "invalid_record")
        if not result.get("id"):
            self.rewrites.add("tool_call_ids")
            result["id"] = self._make_id()
        if isinstance(function := result.get("function"), dict):
            result["function"] = self._function(function)
            self._await(result["id"], function.get("name"))
        return result

    def read_function_call(self, message: dict[str, Any], path: tuple[int | str, ...]) -> Any:
        """Return the calls that the message's `function_call` is. Raises `Unusable`."""
        if message.get("tool_calls"):
            text = "'function_call' and 'tool_calls' say the same in two ways"
            raise Unusable((*path, "function_call"), text, "keep 'tool_calls'", "invalid_record")
        self.rewrites.add("functions")
        call_id = self._make_id()
        function = message["function_call"]
        if isinstance(function, dict):
            if isinstance(name := function.get("name"), str):
                self._ids_by_name[name] = call_id
            function = self._function(function)
        return [{"id": call_id, "type": "function", "function": function}]

    def read_function_answer(self, message: dict[str, Any], path: tuple[int | str, ...]) -> None:
        """Make a message of role `function` the answer of a tool. Raises `Unusable`."""
        self.rewrites.add("functions")
        message["role"] = "tool"
        name = message.get("name")
        call_id = self._ids_by_name.get(name) if isinstance(name, str) else None
        if call_id is None:
            text = "a message of role 'function' must name a function that was called before"
            advice = "write the function's 'name', or remove the message"
            raise Unusable(path, text, advice, "invalid_record")
        message["tool_call_id"] = call_id

    def read_answer(self, message: dict[str, Any]) -> None:
        """Note what a tool's answer answers; without an id, the earliest call that has no answer
        yet, of the function that the message names, if it names one.
        """
        if "tool_call_id" in message:
            call_id = message["tool_call_id"]
            if isinstance(call_id, str):
                self._answered.add(call_id)
            return
        waiting = self._open
        if isinstance(name := message.get("name"), str):
            waiting = self._open_by_name.get(name, deque())
        while waiting:
            call_id = waiting.popleft()
            if call_id not in self._answered:
                self.rewrites.add("tool_call_ids")
                self._answered.add(call_id)
                message["tool_call_id"] = call_id
                return

    def _await(self, call_id: Any, name: Any) -> None:
        if not isinstance(call_id, str):
            return
        self._answered.discard(call_id)  # an id may come again
        self._open.append(call_id)
        if isinstance(name, str):
            self._open_by_name.setdefault(name, deque()).append(call_id)

    def _make_id(self) -> str:
        self.num_ids += 1
        return f"call{self.num_ids - 1:05d}"  # Nine letters and digits, as some templates demand.

    def _function(self, function: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(arguments := function.get("arguments"), dict):
            return function
        self.rewrites.add("arguments_as_object")
        return function | {"arguments": json.dumps(arguments, ensure_ascii=False)}
