from typing import Any

import pytest

from falqon_core.records.file_check import check_file
from falqon_core.records.jsonl import BadRecord
from falqon_core.records.line_parser import parse_record
from falqon_core.records.shapes import PreferenceRecord, wrong_kind
from tests.falqon_core.records.test_parse_record import line

USER = {"role": "user", "content": "How much?"}
GOOD = {"role": "assistant", "content": "Five."}
BAD = {"role": "assistant", "content": "No idea."}
PREFERENCE = {
    "input": {"messages": [USER]},
    "preferred_output": [GOOD],
    "non_preferred_output": [BAD],
}


def test_a_preference_record_is_two_chats_of_which_the_answers_are_learned() -> None:
    tools = [{"type": "function", "function": {"name": "price"}}]
    record = parse_record(
        line(
            PREFERENCE
            | {
                "input": {
                    "messages": [USER, GOOD, USER],
                    "tools": tools,
                    "parallel_tool_calls": True,
                }
            }
        )
    )

    assert type(record) is PreferenceRecord
    preferred, other = record.chats
    assert [message.content for message in preferred.messages] == [
        "How much?",
        "Five.",
        "How much?",
        "Five.",
    ]
    assert [message.content for message in other.messages] == [
        "How much?",
        "Five.",
        "How much?",
        "No idea.",
    ]
    assert [message.weight for message in preferred.messages] == [None, 0, None, None]
    assert preferred.tools == other.tools == tools


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"input": None}, "input", "expected an object"),
        ({"input": {"messages": []}}, "input.messages", "expected 1 or more in the list"),
        ({"input": {"messages": [USER, GOOD]}}, "input", "must have role 'user' or 'tool'"),
        ({"input": {"messages": [GOOD | {"weight": 1}, USER]}}, "input", "weight does not apply"),
        ({"input": {"messages": [USER], "tools": 5}}, "input.tools", "expected a list"),
        ({"preferred_output": []}, "preferred_output", "expected 1 or more in the list"),
        ({"preferred_output": [GOOD, BAD]}, "preferred_output", "at most 1 in the list"),
        ({"preferred_output": GOOD}, "preferred_output", "expected a list"),
        (
            {"preferred_output": [USER]},
            "preferred_output",
            "must have role 'assistant', not 'user'",
        ),
        (
            {"preferred_output": [GOOD | {"content": ""}]},
            "preferred_output[0]",
            "non-empty content",
        ),
        (
            {"non_preferred_output": [BAD | {"weight": 0}]},
            "non_preferred_output",
            "weight does not apply",
        ),
        ({"non_preferred_output": [GOOD]}, "", "are the same, so there is nothing to learn"),
        ({"tools": [{"type": "function"}]}, "tools", "belong into 'input'"),
    ],
)
def test_a_fault_of_a_preference_record_is_told_with_its_place(
    change: dict[str, Any], field: str, message: str
) -> None:
    raw = line(PREFERENCE | change)

    with pytest.raises(BadRecord) as caught:
        parse_record(raw, 7)

    error = caught.value.error
    place = field.split(".")[-1].split("[")[0]
    column = (
        raw.decode().index(f'"{place}": ') + len(f'"{place}": ') + 1 + field.count("[")
        if place
        else 1
    )
    assert (error.line, error.column, error.field) == (7, column, field)
    assert message in error.message


@pytest.mark.parametrize("missing", ["input", "preferred_output", "non_preferred_output"])
def test_all_three_parts_are_needed(missing: str) -> None:
    with pytest.raises(BadRecord, match=f"line 1, column 1, {missing}: the field is missing"):
        parse_record(line({name: value for name, value in PREFERENCE.items() if name != missing}))


def test_a_file_of_preferences_is_summed_up_by_what_the_model_reads() -> None:
    report = check_file([line(PREFERENCE), line({"text": "a"}), line(PREFERENCE)])

    assert (report.shape, report.num_records, report.num_sequences) == ("preference", 2, 4)
    assert report.num_characters == 2 * (2 * len("How much?") + len("Five.") + len("No idea."))
    assert "shape 'text' but the lines before it have 'preference'" in report.errors[0].message


def test_each_method_has_its_kind_of_records() -> None:
    assert wrong_kind("preference", "dpo") is None
    assert wrong_kind("messages", "supervised") is None
    assert "only method dpo" in (wrong_kind("preference", "supervised") or "")
    for shape in ("messages", "prompt/completion", "text"):
        assert "'preferred_output'" in (wrong_kind(shape, "dpo") or "")
