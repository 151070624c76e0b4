import time

from transformers import PreTrainedTokenizerBase

from falqon_core.data.warnings import WarningCounts
from falqon_core.records.shapes import TextRecord


def test_thousands_of_control_tokens_are_looked_for_in_one_pass(
    marked: PreTrainedTokenizerBase,
) -> None:
    """As Tekken's tokenizers and Gemma's have them: one after another they took seconds here."""
    marked.add_tokens([f"<SPECIAL_{index}>" for index in range(6000)], special_tokens=True)
    counts = WarningCounts(marked)
    start = time.thread_time()
    counts.add(1, TextRecord(text="the shop sells lamps " * 50_000), [], 1)
    assert time.thread_time() - start < 0.3
    counts.add(2, TextRecord(text="it is <SPECIAL_77> that <SPECIAL_5999> opens"), [], 1)
    (warning,) = counts.warnings()
    assert (warning.code, warning.records, warning.first_line) == ("control_tokens", 1, 2)
    assert "the first is in line 2: '<SPECIAL_77>'" in warning.message


def test_a_tokenizer_without_control_tokens_warns_of_none(marked: PreTrainedTokenizerBase) -> None:
    counts = WarningCounts(marked)
    counts.add(1, TextRecord(text="nothing <|of> the kind"), [], 1)
    assert counts.warnings() == []
