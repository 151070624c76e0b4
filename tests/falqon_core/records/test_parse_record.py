import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falqon_core.records.jsonl import (
    MAX_LINE_BYTES,
    MAX_LINE_VALUES,
    MAX_NESTING,
    BadRecord,
    RecordError,
)
from falqon_core.records.line_parser import parse_record
from falqon_core.records.shapes import ChatRecord, CompletionRecord, TextRecord

USER = {"role": "user", "content": "How much?"}
ASSISTANT = {"role": "assistant", "content": "Five."}
CHAT = {"messages": [USER, ASSISTANT]}


def line(value: Any) -> bytes:
    return json.dumps(value).encode()


def fault(raw: bytes, number: int = 1) -> RecordError:
    with pytest.raises(BadRecord) as caught:
        parse_record(raw, number)
    return caught.value.error


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (CHAT, ChatRecord),
        (
            {
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    USER,
                    ASSISTANT,
                    USER,
                    ASSISTANT | {"weight": 0},
                ]
            },
            ChatRecord,
        ),
        ({"prompt": "", "completion": "x"}, CompletionRecord),
        ({"text": "ü 🙂"}, TextRecord),
    ],
)
def test_the_three_shapes(value: dict[str, Any], kind: type) -> None:
    record = parse_record(line(value))

    assert type(record) is kind
    assert record.model_dump(exclude_none=True) == value


def call(id: str, arguments: str = "{}") -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": "price", "arguments": arguments}}


def calls(*tool_calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": list(tool_calls)}


def answer(id: str) -> dict[str, str]:
    return {"role": "tool", "content": "5", "tool_call_id": id}


@pytest.mark.parametrize(
    "messages",
    [
        [
            USER,
            calls(call("1"), call("2")),
            answer("2"),
            answer("1"),
            ASSISTANT,
        ],  # parallel, in any order
        [USER, calls(call("1"), call("2")), answer("1"), ASSISTANT],  # one without an answer
        [USER, calls(call("1"))],  # nobody has answered yet
        [
            USER,
            calls(call("1")),
            answer("1"),
            calls(call("1")),
            answer("1"),
            ASSISTANT,
        ],  # an id that comes again
        [
            USER,
            calls(call("1")),
            USER,
            ASSISTANT,
            answer("1"),
            ASSISTANT,
        ],  # an answer that comes late
        [USER, calls(call("1", ' { "a": [1, {"b": null}], "c": "\u00fc" } '))],
    ],
)
def test_conversations_with_tools(messages: list[dict[str, Any]]) -> None:
    assert parse_record(line({"messages": messages})).model_dump(exclude_none=True) == {
        "messages": messages
    }


ORPHAN_ADVICE = (
    "write the id of a call among the 'tool_calls' of an earlier assistant message, or remove the "
    "message"
)
ARGUMENTS_FIELD = "messages[1].tool_calls[0].function.arguments"
ARGUMENTS_ADVICE = 'write an object as text, such as "{}"'


@pytest.mark.parametrize(
    ("messages", "field", "message", "advice"),
    [
        (
            [USER, calls(call("1", arguments)), answer("1"), ASSISTANT],
            ARGUMENTS_FIELD,
            message,
            ARGUMENTS_ADVICE,
        )
        for arguments, message in [
            ("", "found nothing"),
            ("{x: 1", "not JSON: Expecting property name"),
            ("[1]", "found list"),
            ("5", "found int"),
            ("null", "found NoneType"),
            ('{"x": NaN}', "NaN is not JSON"),
            ('{"x": 1, "x": 2}', "this key occurs twice"),
            (r'{"x": "\u0000"}', "a NUL character"),
            (
                '{"a":' * 5000 + "1" + "}" * 5000,
                f"nested too deeply, the limit is {MAX_NESTING} levels",
            ),
            ('{"x": ' + "9" * 5000 + "}", "too many digits"),
        ]
    ]
    + [
        (
            [USER, calls(call("1")), answer("2"), ASSISTANT],
            "messages[2].tool_call_id",
            "a call with the id '2'",
            ORPHAN_ADVICE,
        ),
        (
            [USER, answer("1"), calls(call("1")), ASSISTANT],
            "messages[1].tool_call_id",
            "a call with the id '1'",
            ORPHAN_ADVICE,
        ),
        (
            [USER, {"role": "tool", "content": "5"}, ASSISTANT],
            "messages[1]",
            "must name it in 'tool_call_id'",
            ORPHAN_ADVICE,
        ),
        (
            [USER, {"role": "tool", "content": "5", "tool_call_id": "1"}, ASSISTANT],
            "messages[1].tool_call_id",
            "id '1'",
            ORPHAN_ADVICE,
        ),
    ],
)
def test_calls_and_answers_that_fit_nothing(
    messages: list[dict[str, Any]], field: str, message: str, advice: str
) -> None:
    raw = line({"messages": messages})
    error = fault(raw, 4)

    assert (error.line, error.field, error.advice) == (4, field, advice)
    assert message in error.message
    assert raw[error.column - 1 :].startswith((b'"', b'{"role": "tool"'))


def test_the_answer_of_a_preference_follows_a_call() -> None:
    written = {
        "input": {"messages": [USER, answer("1")]},
        "preferred_output": [ASSISTANT],
        "non_preferred_output": [USER],
    }
    error = fault(
        line(written | {"non_preferred_output": [{"role": "assistant", "content": "Six."}]})
    )

    assert error.field == "input.messages[1].tool_call_id"


# Each fault: the line, the column (from 1, in characters), the field, and words of the message.
FAULTS: list[tuple[bytes, int, str, str]] = [
    (b'{"text": "\xff"}', 11, "", "byte 0xff is not UTF-8"),
    ('{"text": "üü'.encode() + b'\xc3"}', 13, "", "byte 0xc3 is not UTF-8"),
    (b"\xff\xfe{\x00", 1, "", "byte 0xff is not UTF-8"),
    (b'{\0"\0t\0', 2, "", "a NUL byte"),
    (b'{"text": "a\\u0000b"}', 10, "text", "a NUL character"),
    (b'{"text": "a", "b\\u0000": 1}', 1, "", "a NUL character"),
    (b'{"text": "a", "text": "b"}', 15, "text", "twice"),
    (b'{"a": {"text": 1, "text": "]"}, "text": 1}', 19, "text", "twice"),
    (b'{"text": "a", "\\u0074ext": "b"}', 15, "text", "twice"),
    (b"{not json}", 2, "", "not JSON"),
    (b'{"text": "a"} {"text": "b"}', 15, "", "not JSON: Extra data"),
    (b'{"text": "a', 10, "", "not JSON: Unterminated string"),
    (b'{"text": "a\tb"}', 12, "", "not JSON: Invalid control character"),
    (b'{"text": NaN}', 1, "", "NaN is not JSON"),
    (b'{"text": -Infinity}', 1, "", "-Infinity is not JSON"),
    (b'{"text": ' + b"9" * 5000 + b"}", 1, "", "a number has too many digits"),
    (b"[" * 100_000, 1, "", "nested too deeply"),
    (b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 1, "", "nested too deeply"),
    (
        b'{"text": "a", "x": ' + b"[" * MAX_NESTING + b"]" * MAX_NESTING + b"}",
        20,
        "x",
        f"nested too deeply, the limit is {MAX_NESTING}",
    ),
    (
        b'{"text": "a", "x": [' + b"1," * MAX_LINE_VALUES + b"1]}",
        1,
        "",
        f"too many values, the limit is {MAX_LINE_VALUES}",
    ),
    (b'{"text": "' + b"\\n" * 1_000_000 + b'", "text" : "b"}', 2_000_014, "text", "twice"),
    (b"[1]", 1, "", "expected an object, found list"),
    (b"null", 1, "", "expected an object, found NoneType"),
    (b"{}", 1, "", "found keys []"),
    (b'{"question": "a"}', 1, "", "found keys ['question']"),
    (b'{"text": ""}', 10, "text", "the text is empty"),
    (b'{"text": 5}', 10, "text", "expected text"),
    (b'{"text": "\\ud800"}', 10, "text", "not valid unicode"),
    (b'{"\\ud800": 1}', 1, "", "not valid unicode"),
    (b'{"prompt": "a"}', 1, "completion", "the field is missing"),
    (b'{"completion": "a"}', 1, "prompt", "the field is missing"),
    (b'{"prompt": "a", "completion": ""}', 31, "completion", "the text is empty"),
    (b'{"text": "a", "completion": "b"}', 1, "prompt", "the field is missing"),
    (
        b'{"messages": [{"role": "user", "content": "a", "label": "b"}]}',
        57,
        "messages[0].label",
        "unknown field",
    ),
    (b'{"messages": []}', 14, "messages", "expected 1 or more in the list"),
    (b'{"messages": "hello"}', 14, "messages", "expected a list"),
    (line({"messages": [USER]}), 1, "", "at least one message must have role 'assistant'"),
    (line({"messages": [ASSISTANT, USER]}), 1, "", "the last message must have role 'assistant'"),
    (line({"messages": [USER, ASSISTANT | {"weight": 0}]}), 1, "", "nothing to learn"),
    (
        b'{"messages": [{"role": "human", "content": "a"}]}',
        24,
        "messages[0].role",
        "'system', 'user', 'assistant' or 'tool'",
    ),
    (b'{"messages": [{"content": "a"}]}', 15, "messages[0].role", "the field is missing"),
    (
        b'{"messages": [{"role": "user", "content": ["a"]}]}',
        44,
        "messages[0].content[0]",
        "a part of the content is no object",
    ),
    (b'{"messages": [{"role": "user", "content": ""}]}', 15, "messages[0]", "non-empty content"),
    (
        b'{"messages": [{"role": "assistant"}]}',
        15,
        "messages[0]",
        "non-empty content or tool_calls",
    ),
    (
        b'{"messages": [{"role": "user", "content": "a", "weight": 1}]}',
        15,
        "messages[0]",
        "weight is allowed on assistant",
    ),
    (
        b'{"messages": [{"role": "assistant", "content": "a", "weight": 2}]}',
        63,
        "messages[0].weight",
        "expected 1 or less",
    ),
    (
        b'{"messages": [{"role": "assistant", "content": "a", "weight": true}]}',
        63,
        "messages[0].weight",
        "expected a whole number",
    ),
    (
        b'{"messages": [{"role": "user", "content": "a", "tool_calls": []}]}',
        15,
        "messages[0]",
        "tool_calls are allowed on assistant",
    ),
    (
        line(CHAT)[:-1] + b', "tools": [{"a": 1e999}]}',
        len(line(CHAT)) + len(', "tools": '),
        "tools",
        "cannot be written as JSON",
    ),
    (
        line(CHAT)[:-1] + b', "tools": [{"a": "\\udc00"}]}',
        len(line(CHAT)) + len(', "tools": [{"a": '),
        "tools[0].a",
        "not valid unicode",
    ),
    (b'{"text": "' + b"a" * MAX_LINE_BYTES + b'"}', 1, "", "the limit is 8388608"),
]


@pytest.mark.parametrize(
    ("raw", "column", "field", "message"),
    FAULTS,
    ids=[fault[0][:50].decode("latin-1") for fault in FAULTS],
)
def test_a_fault_is_told_with_its_place(raw: bytes, column: int, field: str, message: str) -> None:
    error = fault(raw, 7)

    assert (error.line, error.column, error.field) == (7, column, field)
    assert message in error.message
    assert str(error).startswith(f"line 7, column {column}")


def test_a_byte_order_mark_is_passed_over_on_the_first_line_only() -> None:
    raw = b'\xef\xbb\xbf{"text": "a"}'

    assert parse_record(raw, 1) == TextRecord(text="a")
    assert "BOM" in fault(raw, 2).message


def test_an_error_quotes_a_hostile_line_in_printable_characters() -> None:
    raw = (
        b'{"messages": [{"role": "user", "content": "a", "\\u001b[31m": "' + b"b" * 10_000 + b'"}]}'
    )

    assert fault(raw).field == r"messages[0].\x1b[31m"
    assert len(fault(line({"k" * 10_000: 1})).message) < 300


@pytest.mark.parametrize(
    ("raw", "advice"),
    [
        (b'{"text": 5}', "write text in quotes"),
        (b'{"messages": [{"role": "user", "content": "a", "b": 1}]}', "remove it"),
    ],
)
def test_a_fault_says_what_to_do(raw: bytes, advice: str) -> None:
    assert fault(raw).advice.startswith(advice)
    assert str(fault(raw)).endswith(f"; {fault(raw).advice}")


@given(st.binary())
def test_any_bytes_are_a_record_or_a_fault(raw: bytes) -> None:
    with pytest.raises(BadRecord):
        parse_record(raw)
