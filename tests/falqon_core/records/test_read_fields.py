"""Lines as other trainers write them: fields beside the turns, calls without ids, JSON in texts."""

import json
from typing import Any

import pytest

from falqon_core.records.file_check import check_file
from falqon_core.records.line_parser import parse_record
from tests.falqon_core.records.test_openai_lines import (
    ANSWER,
    ASK,
    BRIEF,
    CALLED,
    PAIR,
    PLAIN,
    PREFERENCE,
    TOOL,
    answer,
    chat,
    part,
)
from tests.falqon_core.records.test_parse_record import line

ALPACA = {"instruction": "How much?", "output": "Five."}
TURNS = [{"from": "human", "value": "How much?"}, {"from": "gpt", "value": "Five."}]
SHAREGPT = {"conversations": TURNS}
BE_BRIEF = {"system": "Be brief."}
TEXTS = {"prompt": "How much?", "chosen": "Five.", "rejected": "No."}
TWO_ANSWERS = {"chosen": "Five.", "rejected": "No."}
EMPTY = {"role": "system", "content": ""}
OBJECT = {"name": "price", "arguments": {"item": "lamp"}}


def without_ids(*names: str) -> dict[str, Any]:
    """Return an answer whose calls have no ids, as in the examples of TRL."""
    calls = [{"type": "function", "function": OBJECT | {"name": name}} for name in names]
    return {"role": "assistant", "tool_calls": calls}


def with_ids(*named: tuple[str, str]) -> dict[str, Any]:
    calls = [
        {"id": id_, "type": "function", "function": CALLED | {"name": name}} for name, id_ in named
    ]
    return {"role": "assistant", "tool_calls": calls}


def result(content: str, id_: str | None = None, name: str | None = None) -> dict[str, Any]:
    fields = {"content": content, "name": name, "tool_call_id": id_}
    return {"role": "tool"} | {key: value for key, value in fields.items() if value is not None}


WITH_SYSTEM = chat(BRIEF, ASK, ANSWER)
PREFERENCE_WITH_SYSTEM = {"input": chat(BRIEF, ASK)} | PAIR
EARLIER = [{"role": "user", "content": "Hi"}, answer(content="Hello.")]
CALL_REWRITES = {"tool_call_ids", "arguments_as_object"}

# Name, the line, what it is read as, what is counted as rewritten.
READ: list[tuple[str, dict[str, Any], dict[str, Any], set[str]]] = [
    ("a system prompt beside messages", PLAIN | BE_BRIEF, WITH_SYSTEM, {"system_field"}),
    ("another name of it", PLAIN | {"system_prompt": "Be brief."}, WITH_SYSTEM, {"system_field"}),
    (
        "a system prompt in parts",
        PLAIN | {"system": [part("Be brief.")]},
        WITH_SYSTEM,
        {"system_field", "text_parts"},
    ),
    ("the same system prompt twice", WITH_SYSTEM | BE_BRIEF, WITH_SYSTEM, set()),
    ("an empty system prompt", PLAIN | {"system": "", "system_prompt": None}, PLAIN, set()),
    ("a system prompt of Alpaca", ALPACA | BE_BRIEF, WITH_SYSTEM, set()),
    ("a system prompt of ShareGPT", SHAREGPT | {"system_prompt": "Be brief."}, WITH_SYSTEM, set()),
    (
        "a system prompt of ShareGPT twice",
        {"conversations": [{"from": "system", "value": "Be brief."}, *TURNS]} | BE_BRIEF,
        WITH_SYSTEM,
        set(),
    ),
    ("an empty one of ShareGPT", SHAREGPT | {"system": ""}, PLAIN, set()),
    (
        "an empty system turn",
        {"conversations": [{"from": "system", "value": ""}, *TURNS]},
        PLAIN,
        {"empty_system"},
    ),
    (
        "a system prompt beside prompt and completion",
        {"prompt": [ASK], "completion": [ANSWER]} | BE_BRIEF,
        WITH_SYSTEM,
        {"system_field"},
    ),
    (
        "a system prompt beside two answers",
        TEXTS | BE_BRIEF,
        PREFERENCE_WITH_SYSTEM,
        {"system_field"},
    ),
    (
        "a system prompt beside a preference",
        PREFERENCE | BE_BRIEF,
        PREFERENCE_WITH_SYSTEM,
        {"system_field"},
    ),
    (
        "a system prompt in a preference",
        {"input": chat(ASK) | BE_BRIEF} | PAIR,
        PREFERENCE_WITH_SYSTEM,
        {"system_field"},
    ),
    ("an empty system message", chat(EMPTY, ASK, ANSWER), PLAIN, {"empty_system"}),
    (
        "an empty system message and a system prompt",
        chat(EMPTY, ASK, ANSWER) | BE_BRIEF,
        WITH_SYSTEM,
        {"empty_system", "system_field"},
    ),
    (
        "an empty developer message in parts",
        chat({"role": "developer", "content": [part("")]}, ASK, ANSWER),
        PLAIN,
        {"empty_system", "developer_role", "text_parts"},
    ),
    ("an input of null", ALPACA | {"input": None, "history": None}, PLAIN, set()),
    ("fields of null", PLAIN | dict.fromkeys(("tools", "chosen", "prompt")), PLAIN, set()),
    (
        "a history",
        ALPACA | {"history": [["Hi", "Hello."]]} | BE_BRIEF,
        chat(BRIEF, *EARLIER, ASK, ANSWER),
        set(),
    ),
    (
        "a preference of Alpaca",
        {"instruction": "How", "input": "much?"} | TWO_ANSWERS | BE_BRIEF,
        {"input": chat(BRIEF, {"role": "user", "content": "How\n\nmuch?"})} | PAIR,
        set(),
    ),
    (
        "a preference of Alpaca with a history",
        {"instruction": "How much?", "output": "", "history": [["Hi", "Hello."]]} | TWO_ANSWERS,
        {"input": chat(*EARLIER, ASK)} | PAIR,
        set(),
    ),
    (
        "calls without ids",
        chat(ASK, without_ids("price")),
        chat(ASK, with_ids(("price", "call00000"))),
        CALL_REWRITES,
    ),
    (
        "answers by name, in another order",
        chat(
            ASK,
            without_ids("price", "stock"),
            result("9", name="stock"),
            result("5", name="price"),
            ANSWER,
        ),
        chat(
            ASK,
            with_ids(("price", "call00000"), ("stock", "call00001")),
            result("9", "call00001", "stock"),
            result("5", "call00000", "price"),
            ANSWER,
        ),
        CALL_REWRITES,
    ),
    (
        "answers without a name, in order",
        chat(
            ASK,
            without_ids("price", "price"),
            result("1"),
            result("2"),
            without_ids("price"),
            result("3"),
            ANSWER,
        ),
        chat(
            ASK,
            with_ids(("price", "call00000"), ("price", "call00001")),
            result("1", "call00000"),
            result("2", "call00001"),
            with_ids(("price", "call00002")),
            result("3", "call00002"),
            ANSWER,
        ),
        CALL_REWRITES,
    ),
    (
        "an answer without an id to a call that has one",
        chat(ASK, with_ids(("price", "a"), ("price", "b")), result("1", "a"), result("2"), ANSWER),
        chat(
            ASK,
            with_ids(("price", "a"), ("price", "b")),
            result("1", "a"),
            result("2", "b"),
            ANSWER,
        ),
        {"tool_call_ids"},
    ),
    (
        "a call without an id as the preferred answer",
        {
            "input": chat(ASK),
            "preferred_output": [without_ids("price")],
            "non_preferred_output": [ANSWER],
        },
        {
            "input": chat(ASK),
            "preferred_output": [with_ids(("price", "call00000"))],
            "non_preferred_output": [ANSWER],
        },
        CALL_REWRITES,
    ),
    (
        "tools as JSON in a text",
        PLAIN | {"tools": json.dumps([TOOL])},
        PLAIN | {"tools": [TOOL]},
        {"json_text"},
    ),
    ("an empty text for tools", PLAIN | {"tools": ""}, PLAIN, set()),
    ("messages as JSON in a text", {"messages": json.dumps([ASK, ANSWER])}, PLAIN, {"json_text"}),
    (
        "a preference as JSON in texts",
        {name: json.dumps(inner) for name, inner in PREFERENCE.items()},
        PREFERENCE,
        {"json_text"},
    ),
    (
        "a question that is JSON",
        ALPACA | {"input": "[1]"},
        chat({"role": "user", "content": "How much?\n\n[1]"}, ANSWER),
        set(),
    ),
    (
        "conversations of messages",
        {"conversations": [BRIEF, ASK, ANSWER], "tools": json.dumps([TOOL])},
        WITH_SYSTEM | {"tools": [TOOL]},
        {"conversations_field", "json_text"},
    ),
    (
        "conversations of messages and a system prompt",
        {"conversations": [ASK, ANSWER]} | BE_BRIEF,
        WITH_SYSTEM,
        {"conversations_field", "system_field"},
    ),
    (
        "weights and nulls of ShareGPT",
        {
            "conversations": [
                TURNS[0] | {"weight": 0, "markdown": None},
                TURNS[1] | {"weight": 0.0},
                *TURNS[:1],
                TURNS[1] | {"weight": 1, "text": None},
            ]
        },
        chat(ASK, answer(weight=0), ASK, answer(weight=1)),
        set(),
    ),
    (
        "turns of ShareGPT that are not trained on",
        {"conversations": [TURNS[0] | {"train": False}, TURNS[1] | {"train": False}, *TURNS]},
        chat(ASK, answer(weight=0), ASK, ANSWER),
        {"train_field"},
    ),
    (
        "messages that are not trained on",
        chat(ASK | {"train": False}, answer(train=False), ASK, answer(train=True, weight=1)),
        chat(ASK, answer(weight=0), ASK, ANSWER),
        {"train_field"},
    ),
]


@pytest.mark.parametrize(
    ("value", "meaning", "rewrites"), [case[1:] for case in READ], ids=[case[0] for case in READ]
)
def test_lines_of_other_trainers_are_read(
    value: dict[str, Any], meaning: dict[str, Any], rewrites: set[str]
) -> None:
    assert parse_record(line(value)).model_dump(exclude_none=True) == meaning
    report = check_file([line(value)] * 2)
    assert (report.num_records, report.num_errors, report.ignored_fields) == (2, 0, {})
    assert report.rewrites == dict.fromkeys(rewrites, 2)
