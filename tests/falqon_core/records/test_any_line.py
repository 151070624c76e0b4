"""Lines that nobody has thought of: each is a record or a fault at a place that the line has."""

import json
import re
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from falqon_core.records.jsonl import BadRecord
from falqon_core.records.line_parser import RECORD_FIELDS, parse, parse_record
from falqon_core.records.shapes import ChatRecord

INNER = ["role", "from", "value", "content", "weight", "train", "tool_calls", "tool_call_id", "id"]
INNER += ["type", "function", "name", "arguments", "text", "thinking", "function_call", "index"]
ROLES = ["system", "user", "assistant", "tool", "function", "developer", "human", "gpt", "critic"]
JSON_TEXTS = ["", "[]", "[", "{}", '{"a": 1}', '[{"role": "user", "content": "a"}]']
WORDS = st.sampled_from(["a", *ROLES, *JSON_TEXTS])
SCALARS = st.none() | st.booleans() | st.sampled_from([0, 1, 2, 0.0, 0.5, 1e308]) | WORDS


def objects(names: list[str], inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(names), inner, max_size=5)


VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | objects(INNER, inner), max_leaves=12
)
MESSAGES = st.lists(objects(INNER, VALUES), max_size=4)
LINES = objects(sorted(RECORD_FIELDS), VALUES | MESSAGES | MESSAGES.map(json.dumps))


@settings(max_examples=60)
@given(LINES)
@example({"messages": [{"role": "tool", "name": []}], "system": "a"})
@example({"input": {"messages": {}, "system": "a"}, "preferred_output": [], "system": "a"})
@example({"conversations": [{"from": [], "value": "a", "weight": None}], "system": "a"})
@example({"messages": [{"role": "assistant", "tool_calls": [{"id": [], "function": {}}]}]})
@example({"messages": [{"role": {}, "content": "a"}], "system": ["a"]})
def test_any_line_is_a_record_or_a_fault_at_a_place_that_it_has(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    try:
        parse(text.encode(), 1)
    except BadRecord as fault:
        error = fault.error
        assert 1 <= error.column <= len(text)
        assert error.advice
        place: Any = value
        for name, index in re.findall(r"(\w+)|\[(\d+)\]", error.field):
            if isinstance(place, str) or (name and name not in place):
                break  # JSON in a text, or a field that is missing
            place = place[name] if name else place[int(index)]
        written = json.dumps(place)
        assert text.startswith(written, error.column - 1), (error, written)


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)


@given(st.none() | TEXTS, st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3), st.data())
def test_a_chat_is_one_record_however_it_is_written(
    system: str | None, turns: list[tuple[str, str]], data: st.DataObject
) -> None:
    messages = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    speakers = {"user": "human", "assistant": "gpt"}
    spoken = [{"from": speakers[each["role"]], "value": each["content"]} for each in messages]
    *history, (question, output) = turns
    beside = {"system": system, "id": None, "tools": None}
    first = [{"role": "system", "content": system}] if system else []
    value = data.draw(
        st.sampled_from(
            [
                {"messages": messages} | beside,
                {"messages": first + messages},
                {"messages": json.dumps(messages)} | beside,
                {"messages": [{"role": "system", "content": ""}, *messages]} | beside,
                {"conversations": messages} | beside,
                {"conversations": spoken} | beside,
                {"conversations": json.dumps([turn | {"a": None} for turn in spoken])} | beside,
                {"instruction": question, "output": output, "history": history} | beside,
                {"instruction": question, "output": output, "history": json.dumps(history)}
                | beside,
            ]
        )
    )
    record = parse_record(json.dumps(value).encode())

    assert isinstance(record, ChatRecord)
    assert record.model_dump(exclude_none=True) == {"messages": first + messages}
