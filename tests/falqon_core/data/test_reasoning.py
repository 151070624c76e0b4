"""Reasoning reaches the chat template by the name that it reads."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from falqon_core.data.chat_template import Rendered, render
from falqon_core.data.reasoning import expects_reasoning
from falqon_core.data.template_defaults import set_template_defaults
from falqon_core.data.warnings import WarningCounts
from falqon_core.importers.tiny import build_tiny
from falqon_core.records.line_parser import parse_record
from falqon_core.records.shapes import ChatRecord
from tests.falqon_core.data.families import FAMILIES, QWEN3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder: Path = tmp_path_factory.mktemp("reasoning") / "falqon-tiny"
    build_tiny(folder)
    return AutoTokenizer.from_pretrained(folder)


def rendered(tokenizer: PreTrainedTokenizerBase, reading: str, field: str) -> Rendered:
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}:" + reading + "{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    answer = {"role": "assistant", "content": "Five.", field: "It is 5."}
    messages = [{"role": "developer", "content": "Be brief."}, answer]
    record = parse_record(json.dumps({"messages": messages}).encode())
    assert isinstance(record, ChatRecord)
    return render(record, tokenizer)


@pytest.mark.parametrize("read", ["m.reasoning_content", "m['reasoning']", "m.thinking"])
@pytest.mark.parametrize("field", ["reasoning_content", "thinking"])
def test_reasoning_is_learned(tokenizer: PreTrainedTokenizerBase, read: str, field: str) -> None:
    chat = rendered(tokenizer, "{% if " + read + " %}<{{ " + read + " }}>{% endif %}", field)

    assert chat.text == "system:Be brief.\nassistant:<It is 5.>Five.\n"
    (learned,) = chat.find_learned(10**6)
    assert learned.text == chat.text
    assert [chat.text[start:end].strip() for start, end in learned.spans] == ["<It is 5.>Five."]
    assert chat.dropped == ()


def test_a_template_without_reasoning_omits_reasoning(tokenizer: PreTrainedTokenizerBase) -> None:
    assert rendered(tokenizer, "", "thinking").dropped == ("reasoning",)


@pytest.mark.parametrize(
    ("name", "kwargs", "expects"),
    [
        ("qwen3", {}, True),
        ("qwen3", {"enable_thinking": True}, True),
        ("qwen3", {"enable_thinking": False}, False),
        ("smollm3", {}, True),
        ("smollm3", {"enable_thinking": False}, False),
        ("harmony", {}, True),
        ("llama3", {}, False),
        ("gemma", {}, False),
    ],
)
def test_a_template_tells_whether_its_model_reasons(
    name: str, kwargs: dict[str, bool], expects: bool, tiny_folder: Path
) -> None:
    tokenizer = FAMILIES[name].tokenizer(tiny_folder)
    set_template_defaults(tokenizer, kwargs)

    assert expects_reasoning(tokenizer) is expects


@pytest.mark.parametrize(
    ("answers", "shows"),
    [
        ([{"content": "Five."}], False),
        ([{"content": "Five.", "reasoning_content": "It is 5."}], True),
        ([{"content": "<think>It is 5.</think>Five."}], True),
        ([{"content": "Five.", "thinking": "It is 5.", "weight": 0}, {"content": "Six."}], False),
    ],
)
def test_records_without_reasoning_are_told_to_one_who_trains_a_model_that_reasons(
    answers: list[dict[str, object]], shows: bool, tiny_folder: Path
) -> None:
    messages = [
        message
        for answer in answers
        for message in ({"role": "user", "content": "?"}, {"role": "assistant"} | answer)
    ]
    record = parse_record(json.dumps({"messages": messages}).encode())
    counts = WarningCounts(QWEN3.tokenizer(tiny_folder))

    counts.add(7, record, [], 1)

    warnings = [(warning.code, warning.first_line) for warning in counts.warnings()]
    assert warnings == ([] if shows else [("reasoning_missing", 7)])
