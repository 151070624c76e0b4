"""Chats of many turns: the masks are those of looking at every turn, and looking at fewer is all
that is saved.
"""

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError
from falqon_core.data import chat_template
from falqon_core.records.shapes import ChatMessage, ChatRecord
from tests.falqon_core.data.test_sequences import encode

LONG = 10**6  # tokens: nothing is cut


def chat(*turns: tuple[str, str]) -> ChatRecord:
    roles = ("user", "assistant")
    return ChatRecord(
        messages=[
            ChatMessage(role=role, content=text)
            for turn in turns
            for role, text in zip(roles, turn, strict=True)
        ]
    )


def test_a_target_at_the_last_kept_token_is_kept(unmarked: PreTrainedTokenizerBase) -> None:
    record = chat(("a", "🙂🙂"), ("b", "ü"), ("c", "d"))
    whole, _ = encode(record, unmarked, LONG)
    for limit in range(1, len(whole) + 1):
        assert np.array_equal(encode(record, unmarked, limit)[0].loss_mask, whole.loss_mask[:limit])


def test_turns_past_the_kept_tokens_are_not_rendered(
    unmarked: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = chat(*[("How much?", "Five.")] * 500)
    monkeypatch.setattr(chat_template, "MAX_RENDERED_MESSAGES", 10_000)
    sequence, was_cut = encode(record, unmarked, 512)
    assert was_cut
    assert sequence.num_labels >= 100
    with pytest.raises(
        DatasetError,
        match=r"messages\[\d+\]: .* up to each learned turn.* 71 turns are too many .* split",
    ):
        encode(record, unmarked, LONG)
