"""Lines that are refused: by which code, and where."""

import json
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
    part,
    user,
)
from tests.falqon_core.records.test_parse_record import line

EMPTY = {"role": "system", "content": ""}
TURN = {"from": "gpt", "value": "a"}

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
    (chat(BRIEF, ASK, ANSWER, system="Be long."), "conflicting_system", "system"),
    (chat(ASK, ANSWER, system="a", system_prompt="b"), "conflicting_system", "system_prompt"),
    (PREFERENCE | {"input": chat(BRIEF, ASK, system="a")}, "conflicting_system", "input.system"),
    (PREFERENCE | {"input": chat(ASK, system="a"), "system": "b"}, "conflicting_system", "system"),
    (
        {"conversations": [{"from": "system", "value": "a"}, TURN], "system": "b"},
        "conflicting_system",
        "system",
    ),
    ({"prompt": "a", "completion": "b", "system": "c"}, "system_not_supported", "system"),
    (chat(ASK, ANSWER, system={"text": "a"}), "invalid_record", "system"),
    (chat(ASK, ANSWER, system=[part("a"), IMAGE]), "vision_not_supported", "system[1]"),
    (chat(ASK, answer(wieght=0), system="a"), "unknown_field", "messages[1].wieght"),
    (
        {"input": chat(ASK | {"a": 1})} | PAIR | {"system": "a"},
        "unknown_field",
        "input.messages[0].a",
    ),
    (
        {"prompt": [ASK, ASK | {"a": 1}], "completion": "b", "system": "a"},
        "unknown_field",
        "prompt[1].a",
    ),
    (
        {"prompt": [ASK], "chosen": [ANSWER | {"a": 1}], "rejected": "b", "system": "a"},
        "unknown_field",
        "chosen[0].a",
    ),
    (chat(EMPTY, ASK, EMPTY, answer(wieght=0)), "unknown_field", "messages[3].wieght"),
    (chat(EMPTY), "invalid_record", "messages"),
    (chat({"role": "system"}, ASK, ANSWER), "invalid_record", "messages[0]"),
    (chat(EMPTY, ASK, {"role": "tool", "content": "5"}, ANSWER), "invalid_record", "messages[2]"),
    ({"conversations": [ASK, answer(wieght=0)]}, "unknown_field", "conversations[1].wieght"),
    ({"conversations": [ASK, ANSWER], "chosen": ANSWER}, "ambiguous_record", "conversations"),
    (chat(ASK, ANSWER, chosen=ANSWER), "ambiguous_record", "chosen"),
    ({"instruction": "a", "output": "b", "chosen": "b"}, "ambiguous_record", "output"),
    (
        {"conversations": [TURN | {"weight": 0.5}, TURN]},
        "fractional_weight_not_supported",
        "conversations[0].weight",
    ),
    ({"conversations": [TURN | {"label": "a"}]}, "unknown_field", "conversations[0].label"),
    (chat(ASK | {"train": True}, ANSWER), "invalid_record", "messages[0].train"),
    (chat(ASK, answer(train="no")), "invalid_record", "messages[1].train"),
    (chat(ASK, answer(train=False, weight=1)), "invalid_record", "messages[1].train"),
    (
        chat(ASK, ANSWER, chat_template_kwargs={"enable_thinking": False}),
        "template_variables_not_supported",
        "chat_template_kwargs",
    ),
    (chat(ASK, ANSWER, images=["a.png"]), "vision_not_supported", "images"),
    (chat(ASK, ANSWER, audios=["a.wav"]), "audio_not_supported", "audios"),
    ({"prompt": "a", "completion": "b", "label": "True"}, "kto_not_supported", "label"),
    (
        {"prompt": "a", "completions": ["b", "c"], "labels": [True, False]},
        "stepwise_not_supported",
        "completions",
    ),
    (
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "a"}],
            "messages": [{"role": "user", "content": [{"text": "a"}]}],
        },
        "bedrock_not_supported",
        "schemaVersion",
    ),
    (
        chat(ASK, {"role": "assistant", "tool_calls": [CALLED]}),
        "invalid_record",
        "messages[1].tool_calls[0].name",
    ),
    (
        chat(ASK, call(), {"role": "tool", "name": "stock", "content": "5"}, ANSWER),
        "invalid_record",
        "messages[2]",
    ),
    (chat(ASK, ANSWER, tools="[{]"), "invalid_json", "tools"),
    (chat(ASK, ANSWER, tools='[{"a": 1, "a": 2}]'), "invalid_json", "tools"),
    ({"messages": "[" * 100 + "]" * 100}, "invalid_json", "messages"),
]


@pytest.mark.parametrize(
    ("value", "code", "field"), REFUSED, ids=[f"{row[1]}: {row[2]}" for row in REFUSED]
)
def test_a_bad_record_is_refused_with_code_and_field(
    value: dict[str, Any], code: str, field: str
) -> None:
    raw = line(value)
    error = check_file([line(PLAIN), raw]).errors[0]

    assert (error.line, error.code, error.field) == (2, code, field)
    assert raw[error.column - 1 :].startswith(line(value_at(value, field)))
    assert error.message
    assert error.advice


def test_a_fault_in_a_text_of_json_is_named_with_its_field() -> None:
    raw = line({"id": 1, "messages": json.dumps([ASK, answer(wieght=0)])})
    error = check_file([raw]).errors[0]

    assert (error.code, error.field) == ("unknown_field", "messages[1].wieght")
    assert raw[error.column - 1 :].startswith(b'"[{')


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (
            {"instruction": "a", "context": "b", "response": "c", "category": "d"},
            "rename 'context' to 'input' and 'response' to 'output'",
        ),
        (
            {"prompt": "a", "query": "b", "response": "c"},
            "rename 'prompt' to 'instruction', 'query' to 'input' and 'response' to 'output'",
        ),
        ({"question": "a", "answer": "b"}, "rename 'question' to 'prompt' and 'answer' to"),
        ({"prompt": "a"}, "a prompt alone teaches nothing"),
        ({"prompt": [ASK]}, "a prompt alone teaches nothing"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"},
            "write the beginning that both texts share as 'prompt'",
        ),
        (chat(ASK, ANSWER, chosen=ANSWER), "rename 'messages' to 'prompt'"),
        ({"conversations": [ASK], "chosen": ANSWER}, "rename 'conversations' to 'prompt'"),
        (chat(user({"text": "a"}), ANSWER), 'write {"type": "text", "text": …}'),
    ],
)
def test_the_fields_to_rename_are_named(value: dict[str, Any], advice: str) -> None:
    assert advice in check_file([line(value)]).errors[0].advice


def value_at(value: Any, field: str) -> Any:
    """Return what stands at the field, or at its nearest parent that is there."""
    for name, index in re.findall(r"(\w+)|\[(\d+)\]", field):
        if name and name not in value:
            break
        value = value[name] if name else value[int(index)]
    return value
