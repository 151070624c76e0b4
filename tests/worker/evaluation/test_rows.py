import json
from typing import Any

import pytest

from falqon_core.records.line_parser import parse
from worker.evaluation import rows
from worker.evaluation.rows import EvaluationRow, RowsTooLong, choose, row_of

CHAT = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Two"}, {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": "Yes.", "weight": 0},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Four"},
    ],
    "id": "row 7",
}


def row(record: dict[str, Any]) -> EvaluationRow:
    result = row_of(3, parse(json.dumps(record).encode(), 3))
    assert result is not None
    return result


def test_a_chat_is_asked_up_to_its_last_answer() -> None:
    question = row(CHAT)
    assert (question.line, question.item["reference"], question.item["id"]) == (3, "Four", "row 7")
    body = json.loads(question.body("m", 16, {"enable_thinking": False}))
    assert body == {
        "model": "m",
        "max_tokens": 16,
        "temperature": 0.0,
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Two\n?"},
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "And?"},
        ],
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_tools_and_calls_are_asked_as_they_were_trained() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    messages = [
        {"role": "user", "content": "Look"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "3"},
        {"role": "assistant", "content": "Three"},
    ]
    body = json.loads(row({"messages": messages, "tools": tools}).body("m", 1, None))
    assert body["tools"] == tools
    assert body["messages"][1]["tool_calls"] == [call]
    assert body["messages"][2] == messages[2]


def test_completions_and_preferences_become_rows_and_plain_text_does_not() -> None:
    completion = row({"prompt": "1 + 1 =", "completion": " 2"})
    assert (completion.path, completion.item["reference"]) == ("/v1/completions", " 2")
    assert json.loads(completion.body("m", 4, None))["prompt"] == "1 + 1 ="
    pair = row({"prompt": "Why?", "chosen": "Because.", "rejected": "No."})
    assert pair.item["reference"] == "Because."
    assert row_of(1, parse(b'{"text": "Once upon a time"}', 1)) is None


def test_an_answer_to_nothing_asks_nothing() -> None:
    line = b'{"messages": [{"role": "assistant", "content": "Hello."}]}'
    assert row_of(1, parse(line, 1)) is None


def test_a_reference_of_the_row_s_own_stands() -> None:
    assert row(CHAT | {"reference": "4"}).item["reference"] == "4"


def test_rows_are_chosen_at_random_and_always_the_same() -> None:
    parsed = parse(b'{"text": "a"}', 1)
    records = [(line, parsed) for line in range(1, 1001)]
    lines = [line for line, _ in choose(iter(records), 100)]
    assert lines == [line for line, _ in choose(iter(records), 100)] == sorted(set(lines))
    assert len(lines) == 100
    assert 350 < sum(lines) / 100 < 650
    assert choose(iter(records[:7]), 100) == records[:7]


def test_the_rows_of_an_evaluation_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_CHARACTERS", 1000)
    line = json.dumps({"prompt": "p" * 100, "completion": "c"}).encode()
    records = [(number, parse(line, number)) for number in range(1, 21)]
    assert len(choose(records, 5)) == 5
    with pytest.raises(RowsTooLong):
        choose(records, 20)
