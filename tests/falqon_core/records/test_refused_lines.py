"""Lines that are refused: by which code, and where."""

import re
from typing import Any

import pytest

from falqon_core.records.file_check import check_file
from tests.falqon_core.records.test_openai_lines import (
    ANSWER,
    ASK,
    BRIEF,
    CALLED,
    IMAGE,
    PAIR,
    PLAIN,
    PREFERENCE,
    TOOL,
    answer,
    call,
    chat,
    line,
    part,
    user,
)

# The line, the code, the field.
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (chat(user(part("a"), IMAGE), ANSWER), "vision_not_supported", "messages[0].content[1]"),
    (chat(user({"type": "input_image"}), ANSWER), "vision_not_supported", "messages[0].content[0]"),
    (chat(user({"type": "input_audio"}), ANSWER), "audio_not_supported", "messages[0].content[0]"),
    (chat(ASK, answer(audio={"id": "a"})), "audio_not_supported", "messages[1].audio"),
    (chat(user({"type": "file"}), ANSWER), "file_parts_not_supported", "messages[0].content[0]"),
    (
        chat(user({"type": "hologram"}), ANSWER),
        "content_part_not_supported",
        "messages[0].content[0]",
    ),
    (chat(user({"text": "a"}), ANSWER), "content_part_not_supported", "messages[0].content[0]"),
    (chat(user({"type": "text"}), ANSWER), "invalid_record", "messages[0].content[0].text"),
    (chat(user(part(5)), ANSWER), "invalid_record", "messages[0].content[0].text"),
    (chat(user(), ANSWER), "invalid_record", "messages[0]"),
    (
        chat(ASK, answer(content=None, refusal="No.")),
        "refusal_not_supported",
        "messages[1].refusal",
    ),
    (
        chat(ASK, answer(content=[{"type": "refusal", "refusal": "No."}])),
        "refusal_not_supported",
        "messages[1].content[0]",
    ),
    (chat(ASK, ANSWER, reference_answer="5"), "reinforcement_not_supported", "reference_answer"),
    (chat(ASK, reference_answer={"a": 5}), "reinforcement_not_supported", "reference_answer"),
    ({"prompt": "a", "completion": "b", "label": True}, "kto_not_supported", "label"),
    ({"prompt": [ASK], "completion": [ANSWER], "label": False}, "kto_not_supported", "label"),
    (chat(ASK, ANSWER, kto_tag=False), "kto_not_supported", "kto_tag"),
    (chat(ASK, answer(weight=0.5)), "fractional_weight_not_supported", "messages[1].weight"),
    (chat(ASK, answer(weight=1.5e300)), "fractional_weight_not_supported", "messages[1].weight"),
    (chat(ASK, answer(weight=2)), "invalid_record", "messages[1].weight"),
    (chat(ASK, ANSWER, weight=3), "line_weight_not_supported", "weight"),
    (
        chat(ASK, call(type="custom")),
        "custom_tools_not_supported",
        "messages[1].tool_calls[0].type",
    ),
    (chat(ASK, ANSWER, tools=[TOOL], functions=[]), "invalid_record", "functions"),
    (chat(ASK, call() | {"function_call": CALLED}), "invalid_record", "messages[1].function_call"),
    (
        chat(ASK, {"role": "function", "name": "price", "content": "5"}, ANSWER),
        "invalid_record",
        "messages[1]",
    ),
    (
        chat(ASK, answer(tool_calls=[], function_call={"name": "price"})),
        "invalid_record",
        "messages[1].function_call.arguments",
    ),
    (
        chat(ASK, answer(function_call={"arguments": "{}"})),
        "invalid_record",
        "messages[1].function_call.name",
    ),
    (
        chat(ASK, answer(function_call=CALLED | {"arguments": "lamp"})),
        "invalid_record",
        "messages[1].function_call.arguments",
    ),
    (
        chat(ASK, call(function=CALLED | {"arguments": ["lamp"]})),
        "invalid_record",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (chat(ASK, ANSWER, functions=["price"]), "invalid_record", "functions[0]"),
    (chat(ASK | {"reasoning_content": "a"}, ANSWER), "invalid_record", "messages[0]"),
    (chat(ASK, answer(reasoning={"effort": "low"})), "invalid_record", "messages[1].reasoning"),
    (chat(ASK, answer(reasoning="a", thinking="b")), "invalid_record", "messages[1].thinking"),
    (chat(ASK | {"role": "critic"}, ANSWER), "invalid_record", "messages[0].role"),
    (chat(ASK, answer(wieght=0)), "unknown_field", "messages[1].wieght"),
    (chat(ASK, ANSWER, completion="b"), "ambiguous_record", "completion"),
    (chat(ASK, ANSWER, **PAIR), "ambiguous_record", "preferred_output"),
    (PREFERENCE | {"tools": [TOOL]}, "invalid_record", "tools"),
    (
        PREFERENCE | {"preferred_output": [answer(content=[IMAGE])]},
        "vision_not_supported",
        "preferred_output[0].content[0]",
    ),
    (
        {"prompt": [ASK, user(IMAGE)], "chosen": "a", "rejected": "b"},
        "vision_not_supported",
        "prompt[1].content[0]",
    ),
    ({"prompt": "a", "chosen": "b"}, "invalid_record", "rejected"),
    ({"chosen": "a", "rejected": "b"}, "invalid_record", "prompt"),
    ({"prompt": "a", "chosen": [], "rejected": []}, "invalid_record", "chosen"),
    ({"prompt": "a", "chosen": "b", "rejected": "b"}, "invalid_record", ""),
    ({"chosen": [ASK, ANSWER], "rejected": [BRIEF, ANSWER]}, "invalid_record", "rejected"),
    ({"prompt": "a", "chosen": [ASK], "rejected": "b"}, "invalid_record", "chosen"),
    (
        {"prompt": [ASK], "completion": [ANSWER | {"role": "critic"}]},
        "invalid_record",
        "completion[0].role",
    ),
    ({"prompt": [ASK], "completion": [ASK]}, "invalid_record", ""),
    ({"prompt": 5, "completion": [ANSWER]}, "invalid_record", "prompt"),
    ({"prompt": "", "completion": [ANSWER]}, "invalid_record", "prompt"),
    (
        {"instruction": "a", "output": "b", "history": [["c", "d"]]},
        "history_not_supported",
        "history",
    ),
    (
        {"conversations": [{"from": "gpt", "value": "a"}], "tools": "[{}]"},
        "sharegpt_tools_not_supported",
        "tools",
    ),
    ({"prompt": [ASK], "completion": []}, "invalid_record", "completion"),
    ({"custom_id": "1", "body": PLAIN}, "batch_request_not_supported", "body"),
    (
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": PLAIN},
        "batch_request_not_supported",
        "body",
    ),
    ({"custom_id": "1", "body": "a"}, "unknown_shape", ""),
    ({"body": PLAIN}, "unknown_shape", ""),
]


@pytest.mark.parametrize(
    ("value", "code", "field"), REFUSED, ids=[f"{row[1]}: {row[2]}" for row in REFUSED]
)
def test_what_is_refused(value: dict[str, Any], code: str, field: str) -> None:
    raw = line(value)
    error = check_file([line(PLAIN), raw]).errors[0]

    assert (error.line, error.code, error.field) == (2, code, field)
    assert raw[error.column - 1 :].startswith(line(value_at(value, field)))
    assert error.message
    assert error.advice


def value_at(value: Any, field: str) -> Any:
    """Return what stands at the field, or at its nearest parent that is there."""
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", field):
        if name and name not in value:
            break
        value = value[name] if name else value[int(index)]
    return value
