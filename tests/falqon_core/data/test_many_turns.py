"""Chats of many turns: the masks are those of looking at every turn, and looking at fewer is all
that is saved.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError
from falqon_core.data import chat_template
from falqon_core.data.sequences import TokenSequence
from falqon_core.data.sequences import encode as encode_record
from falqon_core.records.shapes import ChatMessage, ChatRecord

SHARED = Path(__file__).parents[4] / "shared" / "data" / "gsm8k_train.jsonl"
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


def encode(
    record: ChatRecord, tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> tuple[TokenSequence, bool]:
    """Return the one sequence of a record, and whether it was cut."""
    encoding = encode_record(record, tokenizer, max_seq_length)
    assert isinstance(encoding.item, TokenSequence)
    return encoding.item, encoding.num_cut > 0


@pytest.mark.skipif(
    not SHARED.exists(), reason="no ../shared/data/gsm8k_train.jsonl beside the repository"
)
@pytest.mark.parametrize("template", ["marked", "unmarked"])
def test_the_masks_of_chats_that_are_cut_are_those_of_whole_chats(
    template: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(template)
    rows = [json.loads(row) for row in SHARED.read_text().splitlines()[:120]]
    turns = [(row["question"], row["answer"]) for row in rows]
    records = [chat(*turns[start : start + 6]) for start in range(0, len(turns), 6)]
    for record in records:
        whole, was_cut = encode(record, tokenizer, LONG)
        assert not was_cut
        for limit in (8, 333, 1024):
            cut, _ = encode(record, tokenizer, limit)
            assert np.array_equal(cut.input_ids, whole.input_ids[:limit])
            assert np.array_equal(cut.loss_mask, whole.loss_mask[:limit])


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
