from typing import Any

import pytest

from falqon_core.records.file_check import check_file
from falqon_core.records.jsonl import BadRecord, RecordError
from falqon_core.records.line_parser import parse_record
from tests.falqon_core.records.test_parse_record import line

ALPACA = {"instruction": "Add up.", "input": "2 and 2", "output": "4"}
TURNS = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello!"}]
REQUEST = [*TURNS, {"from": "human", "value": "Two and two?"}]
PREFERENCE = {
    "conversations": REQUEST,
    "chosen": {"from": "gpt", "value": "4"},
    "rejected": {"from": "gpt", "value": "5"},
}


def converted(value: Any) -> dict[str, Any]:
    return parse_record(line(value)).model_dump(exclude_none=True)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def fault(value: Any) -> RecordError:
    with pytest.raises(BadRecord) as caught:
        parse_record(line(value))
    return caught.value.error


@pytest.mark.parametrize(
    ("value", "question"),
    [
        (ALPACA, "Add up.\n\n2 and 2"),
        (ALPACA | {"input": ""}, "Add up."),
        ({"instruction": "Add up.", "output": "4"}, "Add up."),
    ],
)
def test_alpaca_becomes_a_question_and_its_answer(value: dict[str, str], question: str) -> None:
    assert converted(value) == {"messages": [message("user", question), message("assistant", "4")]}


def test_sharegpt_with_two_answers_becomes_a_preference() -> None:
    assert converted(PREFERENCE) == {
        "input": {
            "messages": [
                message("user", "Hi"),
                message("assistant", "Hello!"),
                message("user", "Two and two?"),
            ]
        },
        "preferred_output": [message("assistant", "4")],
        "non_preferred_output": [message("assistant", "5")],
    }


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    (ALPACA | {"output": ""}, "output", "the text is empty"),
    ({"instruction": "Add up."}, "output", "is missing"),
    (ALPACA | {"history": [["a", "b"], ["a"]]}, "history[1]", "no pair"),
    (ALPACA | {"history": "before"}, "history", "expected a list"),
    (ALPACA | {"history": [["a", ""]]}, "history[0][1]", "the text is empty"),
    (ALPACA | {"system": 5}, "system", "is a text"),
    (ALPACA | {"output": None, "chosen": "4", "rejected": "4"}, "", "are the same"),
    (ALPACA | {"output": None, "chosen": "4"}, "rejected", "is missing"),
    ({"conversations": []}, "conversations", "expected 1 or more in the list"),
    ({"conversations": REQUEST}, "", "the last turn must be from 'gpt'"),
    ({"conversations": [{"from": "bard", "value": "a"}]}, "conversations[0].from", "'human'"),
    ({"conversations": [{"from": "gpt", "value": 1}]}, "conversations[0].value", "expected text"),
    ({"conversations": [{"from": "gpt"}]}, "conversations[0].value", "is missing"),
    (PREFERENCE | {"conversations": TURNS}, "", "the last turn must be from 'human'"),
    ({"conversations": [TURNS[0] | {"weight": 1}, TURNS[1]]}, "", "from 'gpt' only"),
    (
        {"conversations": [TURNS[0], TURNS[1] | {"weight": 2}]},
        "conversations[1].weight",
        "1 or less",
    ),
    ({"conversations": [TURNS[0], TURNS[1] | {"weight": 0}]}, "", "nothing is learned"),
    (
        {"conversations": [{"from": "system", "value": ""}, {"from": "gpt"}]},
        "conversations[1].value",
        "is missing",
    ),
    (PREFERENCE | {"chosen": {"from": "gpt", "value": "4", "weight": 1}}, "", "weight does not"),
    (PREFERENCE | {"rejected": None}, "", "go together"),
    (PREFERENCE | {"chosen": {"from": "human", "value": "4"}}, "", "must be from 'gpt'"),
    (PREFERENCE | {"rejected": PREFERENCE["chosen"]}, "", "are the same"),
]


@pytest.mark.parametrize(("value", "field", "words"), FAULTS)
def test_a_fault_is_told_in_the_words_of_the_dialect(
    value: dict[str, Any], field: str, words: str
) -> None:
    error = fault(value)

    assert error.field == field
    assert words in error.message
    assert error.advice


def test_the_report_shows_the_conversion() -> None:
    report = check_file([line(ALPACA | {"output": "4" * 1000})] * 3)

    assert (report.shape, report.num_records) == ("messages", 3)
    assert report.summary() == "3 records (messages, converted from alpaca)"
    conversion = report.conversion
    assert conversion is not None
    assert (conversion.dialect, conversion.shape, conversion.line) == ("alpaca", "messages", 1)
    assert "'instruction'" in conversion.rule
    assert conversion.before["instruction"] == "Add up."
    assert conversion.after["messages"][0] == message("user", "Add up.\n\n2 and 2")
    assert conversion.after["messages"][1]["content"] == "4" * 200 + "…"


CHAT = {"messages": [message("user", "Hi"), message("assistant", "a")]}
SHAREGPT = {"conversations": TURNS}


@pytest.mark.parametrize(
    ("first", "second", "here", "before"),
    [
        (ALPACA, CHAT, "messages", "messages (alpaca)"),
        (SHAREGPT, PREFERENCE, "preference (sharegpt)", "messages (sharegpt)"),
    ],
)
def test_dialects_do_not_mix(first: Any, second: Any, here: str, before: str) -> None:
    report = check_file([line(first), line(second)])

    assert (report.ok, report.mixed_at_line) == (False, 2)
    assert (
        f"this line has shape '{here}' but the lines before it have '{before}'"
        in report.errors[0].message
    )
