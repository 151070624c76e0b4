from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}{{ '<|im_start|>system\nYou are "
    "helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def marked(tiny_folder: Path) -> PreTrainedTokenizerBase:
    """A tokenizer whose chat template has generation marks."""
    return AutoTokenizer.from_pretrained(tiny_folder)


@pytest.fixture
def unmarked(tiny_folder: Path) -> PreTrainedTokenizerBase:
    """The same tokenizer with a ChatML template: no marks, and a system prompt of its own."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.chat_template = CHATML
    return tokenizer
