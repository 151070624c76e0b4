import tracemalloc

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError, ModelError
from falqon_core.data.chat_template import render
from falqon_core.data.sequences import Encoder, TokenSequence
from falqon_core.data.sequences import encode as encode_record
from falqon_core.data.warnings import WarningCounts
from falqon_core.records.shapes import (
    ChatMessage,
    ChatRecord,
    CompletionRecord,
    FunctionCall,
    SupervisedRecord,
    TextRecord,
    ToolCall,
)

TWO_TURNS = ChatRecord.model_validate(
    {
        "messages": [
            {"role": "user", "content": "What does it cost?"},
            {"role": "assistant", "content": "  Five dollars. "},
            {"role": "user", "content": "And für zwei? 🙂"},
            {"role": "assistant", "content": "Nine.\n\nThat is cheaper 🙂"},
        ]
    }
)


def encode(
    record: SupervisedRecord, tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> tuple[TokenSequence, bool]:
    """Return the one sequence of a record, and whether it was cut."""
    encoding = encode_record(record, tokenizer, max_seq_length)
    assert isinstance(encoding.item, TokenSequence)
    return encoding.item, encoding.num_cut > 0


def targets(sequence: TokenSequence, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of the runs of learned tokens."""
    edges = np.flatnonzero(
        np.diff(np.concatenate([[False], sequence.loss_mask, [False]]).astype(int))
    )
    return [tokenizer.decode(sequence.input_ids[start:end]) for start, end in edges.reshape(-1, 2)]


@pytest.mark.parametrize("template", ["marked", "unmarked"])
def test_loss_is_on_assistant_turns_and_their_end(
    template: str, request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(template)

    sequence, truncated = encode(TWO_TURNS, tokenizer, 512)

    assert not truncated
    assert targets(sequence, tokenizer) == [
        "  Five dollars. <|im_end|>",
        "Nine.\n\nThat is cheaper 🙂<|im_end|>",
    ]
    assert sequence.input_ids.dtype == np.int32
    assert sequence.loss_mask.dtype == bool


def test_an_answer_that_melts_into_the_prompt_is_refused(unmarked: PreTrainedTokenizerBase) -> None:
    unmarked.chat_template = (
        "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\n' }}{% "
        "endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "the answer"}]

    with pytest.raises(DatasetError, match=r"joins the end of the prompt.*'the answer"):
        encode(ChatRecord.model_validate({"messages": messages}), unmarked, 512)


@pytest.mark.parametrize("arguments", ["lamp", '{"a":' * 5000 + "1" + "}" * 5000])
def test_arguments_that_no_check_has_seen_are_refused(
    arguments: str, unmarked: PreTrainedTokenizerBase
) -> None:
    call = ToolCall(
        id="1", function=FunctionCall.model_construct(name="price", arguments=arguments)
    )
    answer = ChatMessage(role="assistant", tool_calls=[call])
    record = ChatRecord(messages=[ChatMessage(role="user", content="?"), answer])

    with pytest.raises(DatasetError, match="arguments of the call to 'price'"):
        encode(record, unmarked, 512)


def test_completion_is_learned_with_its_end(marked: PreTrainedTokenizerBase) -> None:
    sequence, _ = encode(
        CompletionRecord(prompt="Question: how far?\nAnswer:", completion=" 240 miles."),
        marked,
        512,
    )

    assert targets(sequence, marked) == [" 240 miles.<|im_end|>"]
    assert marked.decode(sequence.input_ids) == "Question: how far?\nAnswer: 240 miles.<|im_end|>"


@pytest.mark.parametrize("prompt", ["Answer: ", "Question <|im_end|> Ans"])
def test_a_completion_that_melts_into_its_prompt_is_tokenized_apart(
    prompt: str, marked: PreTrainedTokenizerBase
) -> None:
    completion = "wer it is"
    alone = marked(prompt, add_special_tokens=False)["input_ids"]
    assert marked(prompt + completion, add_special_tokens=False)["input_ids"][: len(alone)] != alone

    sequence, _ = encode(CompletionRecord(prompt=prompt, completion=completion), marked, 512)

    assert sequence.input_ids[: len(alone)].tolist() == alone
    assert targets(sequence, marked) == ["wer it is<|im_end|>"]
    assert marked.decode(sequence.input_ids) == prompt + completion + "<|im_end|>"


def test_text_is_learned_but_for_its_first_token(marked: PreTrainedTokenizerBase) -> None:
    sequence, _ = encode(TextRecord(text="Hello! How can I help you today?"), marked, 512)

    assert not sequence.loss_mask[0]
    assert sequence.loss_mask[1:].all()
    assert sequence.input_ids[-1] == marked.eos_token_id


def test_plain_text_needs_an_end_token(marked: PreTrainedTokenizerBase) -> None:
    marked.eos_token = None

    with pytest.raises(ModelError, match="no end-of-sequence token"):
        encode(TextRecord(text="Hello"), marked, 512)


def test_plain_text_begins_as_the_tokenizer_begins_it(marked: PreTrainedTokenizerBase) -> None:
    from tokenizers.processors import TemplateProcessing

    start = marked.convert_tokens_to_ids("<|im_start|>")
    marked.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>",
        special_tokens=[("<|im_start|>", start), ("<|im_end|>", marked.eos_token_id)],
    )

    sequence, _ = encode(CompletionRecord(prompt="", completion="Hello"), marked, 512)

    assert marked.decode(sequence.input_ids) == "<|im_start|>Hello<|im_end|>"
    assert targets(sequence, marked) == ["Hello<|im_end|>"]


@pytest.mark.parametrize("limit", [8, 20, 21])
def test_long_records_are_cut_on_the_right(limit: int, marked: PreTrainedTokenizerBase) -> None:
    whole, _ = encode(TWO_TURNS, marked, 512)

    cut, truncated = encode(TWO_TURNS, marked, limit)

    assert truncated
    assert np.array_equal(cut.input_ids, whole.input_ids[:limit])
    assert np.array_equal(cut.loss_mask, whole.loss_mask[:limit])


def test_a_record_of_exactly_the_limit_is_not_cut(marked: PreTrainedTokenizerBase) -> None:
    whole, _ = encode(TWO_TURNS, marked, 512)

    assert encode(TWO_TURNS, marked, len(whole))[1] is False


def test_prompts_are_not_kept_in_memory(marked: PreTrainedTokenizerBase) -> None:
    encoder = Encoder(marked, 512)

    def encode_records(numbers: range) -> None:
        for number in numbers:
            prompt = f"Question {number}: " + "what does it cost? " * 100
            rendered = render(CompletionRecord(prompt=prompt, completion="Five dollars."), marked)
            encoder.encode(rendered, next(encoder.tokenize([rendered.text])))

    encode_records(range(10))  # what the libraries keep of their first texts
    tracemalloc.start(8)  # frames: as far as this file
    try:
        encode_records(range(10, 60))
        kept = tracemalloc.take_snapshot()
    finally:
        tracemalloc.stop()
    # a service of other tests may work in another thread
    own = kept.filter_traces([tracemalloc.Filter(True, __file__, all_frames=True)])
    assert 0 < sum(trace.size for trace in own.traces) < 50_000


def test_several_templates_without_a_default_are_the_models_fault(
    marked: PreTrainedTokenizerBase,
) -> None:
    marked.chat_template = {"rag": str(marked.chat_template)}
    with pytest.raises(ModelError, match="none of them is called 'default'") as caught:
        encode(TWO_TURNS, marked, 512)
    assert caught.value.param == "model"
    counts = WarningCounts(marked)
    counts.add(1, TextRecord(text="Plain text needs none."), [], 1)
    assert counts.warnings() == []
