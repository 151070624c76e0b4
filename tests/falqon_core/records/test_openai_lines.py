"""What people who come from OpenAI have in their lines, and what becomes of it."""

from typing import Any

import pytest

from falqon_core.records.file_check import MAX_IGNORED_FIELDS, check_file
from falqon_core.records.line_parser import parse_record
from tests.falqon_core.records.test_parse_record import line

ASK = {"role": "user", "content": "How much?"}
ANSWER = {"role": "assistant", "content": "Five."}
BRIEF = {"role": "system", "content": "Be brief."}
CALLED = {"name": "price", "arguments": '{"item": "lamp"}'}
CALL = {"id": "c1", "type": "function", "function": CALLED}
OLD_CALL = {"id": "call00000", "type": "function", "function": CALLED}
TOOL = {"type": "function", "function": {"name": "price", "parameters": {}}}
RESULT = {"role": "tool", "content": "5", "tool_call_id": "c1"}
DUMPED = {"refusal": None, "annotations": [], "audio": None, "tool_calls": None}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
PAIR = {"preferred_output": [ANSWER], "non_preferred_output": [{**ANSWER, "content": "No."}]}


def chat(*messages: Any, **more: Any) -> dict[str, Any]:
    return {"messages": list(messages)} | more


def user(*parts: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def part(text: Any, kind: str = "text") -> dict[str, Any]:
    return {"type": kind, "text": text}


def answer(**fields: Any) -> dict[str, Any]:
    return ANSWER | fields


def call(**fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "tool_calls": [CALL | fields]}


PLAIN = chat(ASK, ANSWER)
OLD_STYLE = [
    ASK,
    {"role": "assistant", "content": None, "function_call": CALLED},
    {"role": "function", "name": "price", "content": "5"},
    ANSWER,
]
NEW_STYLE = [
    ASK,
    {"role": "assistant", "tool_calls": [OLD_CALL]},
    {"role": "tool", "name": "price", "content": "5", "tool_call_id": "call00000"},
    ANSWER,
]
PREFERENCE = {"input": chat(ASK)} | PAIR
REASONED = answer(reasoning_content="It is 5.")

# Name, the line, what it is read as, what is counted as ignored, what as rewritten.
ACCEPTED: list[tuple[str, dict[str, Any], dict[str, Any], set[str], set[str]]] = [
    ("a text part", chat(user(part("How much?")), ANSWER), PLAIN, set(), {"text_parts"}),
    (
        "two text parts",
        chat(user(part("How"), part("much?")), ANSWER),
        chat(user("How", "much?"), ANSWER),
        set(),
        {"text_parts"},
    ),
    (
        "parts of every message, one of them an input part",
        chat(
            BRIEF | {"content": [part("Be brief.")]},
            user(part("How much?", "input_text")),
            answer(content=[part("Five.")]),
        ),
        chat(BRIEF, ASK, ANSWER),
        set(),
        {"text_parts"},
    ),
    (
        "a part with cache control",
        chat(user(part("How much?") | {"cache_control": {"type": "ephemeral"}}), ANSWER),
        PLAIN,
        {"messages[].content[].cache_control"},
        {"text_parts"},
    ),
    (
        "an empty part",
        chat(user(part(""), part("How much?")), ANSWER),
        chat(user("", "How much?"), ANSWER),
        set(),
        {"text_parts"},
    ),
    (
        "a developer",
        chat({"role": "developer", "content": "Be brief."}, ASK, ANSWER),
        chat(BRIEF, ASK, ANSWER),
        set(),
        {"developer_role"},
    ),
    (
        "a list of functions",
        chat(*OLD_STYLE, functions=[TOOL["function"]], parallel_tool_calls=False),
        chat(*NEW_STYLE, tools=[TOOL], parallel_tool_calls=False),
        set(),
        {"functions"},
    ),
    ("a call at the end", chat(*OLD_STYLE[:2]), chat(*NEW_STYLE[:2]), set(), {"functions"}),
    (
        "a function called twice",
        chat(*OLD_STYLE[:3], *OLD_STYLE[1:]),
        chat(
            *NEW_STYLE[:3],
            {"role": "assistant", "tool_calls": [OLD_CALL | {"id": "call00001"}]},
            NEW_STYLE[2] | {"tool_call_id": "call00001"},
            ANSWER,
        ),
        set(),
        {"functions"},
    ),
    (
        "a function's empty answer",
        chat(*OLD_STYLE[:2], OLD_STYLE[2] | {"content": ""}, ANSWER),
        chat(*NEW_STYLE[:2], NEW_STYLE[2] | {"content": ""}, ANSWER),
        set(),
        {"functions"},
    ),
    (
        "a choice of function",
        chat(*OLD_STYLE, function_call="auto"),
        chat(*NEW_STYLE),
        {"function_call"},
        {"functions"},
    ),
    ("functions of null", chat(ASK, ANSWER, functions=None), PLAIN, set(), set()),
    ("a dumped answer", chat(ASK, answer(**DUMPED, function_call=None)), PLAIN, set(), set()),
    ("a dumped question", chat(ASK | {"name": None}, ANSWER), PLAIN, set(), set()),
    (
        "a name, no calls and an empty refusal",
        chat(ASK | {"name": "ann"}, answer(tool_calls=[], refusal="")),
        chat(ASK | {"name": "ann"}, ANSWER),
        set(),
        set(),
    ),
    (
        "annotations",
        chat(ASK, answer(annotations=[{"type": "url_citation"}])),
        PLAIN,
        {"messages[].annotations"},
        set(),
    ),
    (
        "a logged item",
        chat(ASK, answer(id="msg_1", type="message", status="completed")),
        PLAIN,
        {"messages[].id", "messages[].type", "messages[].status"},
        set(),
    ),
    (
        "a dumped call",
        chat(ASK, call() | DUMPED | {"content": None, "tool_calls": [CALL]}),
        chat(ASK, call()),
        set(),
        set(),
    ),
    (
        "a streamed call and its empty result",
        chat(ASK, call(index=0), RESULT | {"content": ""}, ANSWER),
        chat(ASK, call(), RESULT | {"content": ""}, ANSWER),
        {"messages[].tool_calls[].index"},
        set(),
    ),
    (
        "a tool result of null",
        chat(ASK, call(), RESULT | {"content": None}, ANSWER),
        chat(ASK, call(), {"role": "tool", "tool_call_id": "c1"}, ANSWER),
        set(),
        set(),
    ),
    (
        "parts of a tool result",
        chat(ASK, call(), RESULT | {"content": [part("5")]}, ANSWER),
        chat(ASK, call(), RESULT, ANSWER),
        set(),
        {"text_parts"},
    ),
    (
        "arguments as an object",
        chat(ASK, call(function=CALLED | {"arguments": {"item": "lamp"}})),
        chat(ASK, call()),
        set(),
        {"arguments_as_object"},
    ),
    (
        "arguments of an old call as an object",
        chat(*OLD_STYLE[:1], answer(content=None, function_call=CALLED | {"arguments": {}})),
        chat(
            ASK,
            {
                "role": "assistant",
                "tool_calls": [OLD_CALL | {"function": CALLED | {"arguments": "{}"}}],
            },
        ),
        set(),
        {"functions", "arguments_as_object"},
    ),
    ("reasoning content", chat(ASK, REASONED), chat(ASK, REASONED), set(), set()),
    (
        "reasoning",
        chat(ASK, answer(reasoning="It is 5.")),
        chat(ASK, REASONED),
        set(),
        {"reasoning_field"},
    ),
    (
        "thinking",
        chat(ASK, answer(thinking="It is 5.")),
        chat(ASK, REASONED),
        set(),
        {"reasoning_field"},
    ),
    ("no reasoning", chat(ASK, answer(reasoning_content=None, reasoning="")), PLAIN, set(), set()),
    (
        "reasoning twice",
        chat(ASK, answer(reasoning="It is 5.", reasoning_content="It is 5.")),
        chat(ASK, REASONED),
        set(),
        {"reasoning_field"},
    ),
    ("a whole weight", chat(ASK, answer(weight=1.0)), chat(ASK, answer(weight=1)), set(), set()),
    (
        "fields that train nothing",
        chat(ASK, ANSWER, metadata={"a": [1]}, id="7", response_format=None, temperature=0.5),
        PLAIN,
        {"metadata", "id", "response_format", "temperature"},
        set(),
    ),
    ("a text with a label", {"text": "a", "label": True}, {"text": "a"}, {"label"}, set()),
    ("a line's weight of one", chat(ASK, ANSWER, weight=1), PLAIN, {"weight"}, set()),
    ("a preference", PREFERENCE | {"score": 1}, PREFERENCE, {"score"}, set()),
    (
        "a preference in parts",
        {"input": chat(user(part("How much?")), model="gpt-4o")}
        | PAIR
        | {"preferred_output": [answer(content=[part("Five.")], **DUMPED)]},
        PREFERENCE,
        {"input.model"},
        {"text_parts"},
    ),
    (
        "a preference with functions",
        {"input": chat(*OLD_STYLE[:3], functions=[TOOL["function"]])} | PAIR,
        {"input": chat(*NEW_STYLE[:3], tools=[TOOL])} | PAIR,
        set(),
        {"functions"},
    ),
    (
        "chosen and rejected texts",
        {"prompt": "How much?", "chosen": "Five.", "rejected": "No."},
        PREFERENCE,
        set(),
        set(),
    ),
    (
        "chosen and rejected messages",
        {"prompt": [ASK], "chosen": [ANSWER], "rejected": PAIR["non_preferred_output"]},
        PREFERENCE,
        set(),
        set(),
    ),
    (
        "chosen and rejected chats",
        {"chosen": [ASK, ANSWER], "rejected": [ASK, *PAIR["non_preferred_output"]]},
        PREFERENCE,
        set(),
        set(),
    ),
    (
        "chosen and rejected chats that repeat the prompt",
        {
            "prompt": "How much?",
            "chosen": [ASK, ANSWER],
            "rejected": [ASK, *PAIR["non_preferred_output"]],
        },
        PREFERENCE,
        set(),
        set(),
    ),
    (
        "chosen and rejected with tools",
        {"prompt": "How much?", "chosen": "Five.", "rejected": "No.", "tools": [TOOL]},
        {"input": chat(ASK, tools=[TOOL])} | PAIR,
        set(),
        set(),
    ),
    (
        "messages as prompt and completion",
        {"prompt": [ASK], "completion": [ANSWER]},
        PLAIN,
        set(),
        set(),
    ),
    (
        "only the completion is learned",
        {"prompt": [ASK, ANSWER, ASK], "completion": "Five."},
        chat(ASK, answer(weight=0), ASK, ANSWER),
        set(),
        set(),
    ),
    ("a text as prompt", {"prompt": "How much?", "completion": [ANSWER]}, PLAIN, set(), set()),
    (
        "Alpaca with its text",
        {"instruction": "How much?", "output": "Five.", "text": "a", "history": []},
        PLAIN,
        {"text"},
        set(),
    ),
]


@pytest.mark.parametrize(
    ("value", "meaning", "ignored", "rewrites"),
    [case[1:] for case in ACCEPTED],
    ids=[case[0] for case in ACCEPTED],
)
def test_lines_of_openais_dialect_are_accepted(
    value: dict[str, Any], meaning: dict[str, Any], ignored: set[str], rewrites: set[str]
) -> None:
    assert parse_record(line(value)).model_dump(exclude_none=True) == meaning
    report = check_file([line(value)] * 2)
    assert (report.num_records, report.num_errors) == (2, 0)
    assert report.ignored_fields == dict.fromkeys(ignored, 2)
    assert report.rewrites == dict.fromkeys(rewrites, 2)


def test_a_mixed_file_says_which_lines_are_which() -> None:
    texts = {"prompt": "a", "completion": "b"}
    report = check_file(map(line, [PLAIN, texts, PLAIN, PREFERENCE, texts]))

    assert {name: (kind.num_lines, kind.first_line) for name, kind in report.kinds.items()} == {
        "messages": (2, 1),
        "prompt/completion": (2, 2),
        "preference": (1, 4),
    }
    assert {error.code for error in report.errors} == {"mixed_shapes"}


def test_the_report_names_a_bounded_number_of_ignored_fields() -> None:
    report = check_file([line(PLAIN | {f"k{i}": i for i in range(100)})] * 3)

    assert len(report.ignored_fields) == MAX_IGNORED_FIELDS
    assert set(report.ignored_fields.values()) == {3}
    assert report.num_other_ignored == 3 * (100 - MAX_IGNORED_FIELDS)
