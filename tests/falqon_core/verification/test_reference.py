from pathlib import Path

import pytest

from falqon_core.importers.tokenizer import load_tokenizer
from falqon_core.verification.reference import CANARY_TEXT, canary_prompt


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('only with a system message') }}",
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        {"tool_use": "{{ messages[0].content }}"},
    ],
)
def test_a_template_that_takes_no_question_leaves_plain_text(
    template: str | dict[str, str], tiny_folder: Path
) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    tokenizer.chat_template = template
    assert canary_prompt(tokenizer).tolist() == tokenizer(CANARY_TEXT)["input_ids"]
