"""What a model makes of records that their author may not expect: fields that leave no trace, and text that becomes control tokens.

It changes nothing of what is trained. What is given up: a template that writes some of a chat's calls and leaves out others.
"""

from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from falqon_core.contract.inspection import DataWarning
from falqon_core.data.chat_template import Rendered
from falqon_core.records.shapes import ChatMessage, ChatRecord, CompletionRecord, PreferenceRecord, Record, TextRecord

MAX_TOKEN_CHARACTERS = 40  # shown of a control token, which the model's author has named

_SENTENCES = {
    "tool_calls_dropped": (
        "Tool calls of {records} are left out by the model's chat template, so they are not learned; the first is in line {line}. "
        "Train a model whose template writes tool calls, or write the calls into 'content'."
    ),
    "tools_dropped": (
        "The tools of {records} are left out by the model's chat template; the first is in line {line}. "
        "Train a model whose template writes tools, or describe them in a system message."
    ),
    "control_tokens": (
        "The text of {records} holds control tokens of the model, which act as such; the first is in line {line}: {token}. "
        "Remove them, unless they are meant."
    ),
}


def control_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the texts that the tokenizer makes control tokens of, wherever they stand."""
    added = (str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*added, *tokenizer.all_special_tokens} - {""})


class WarningCounts:
    """Counts, per kind of warning, the records of a file and remembers the first."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._counts = dict.fromkeys(_SENTENCES, 0)
        self._first_lines: dict[str, int] = {}
        self._first_token = ""

    def add(self, line: int, record: Record, rendered: Sequence[Rendered]) -> None:
        for field in {field for one in rendered for field in one.dropped}:
            self._count(f"{field}_dropped", line)
        if token := self._token_in(record):
            self._first_token = self._first_token or token
            self._count("control_tokens", line)

    def warnings(self) -> list[DataWarning]:
        return [self._warning(code) for code in self._first_lines]

    def _count(self, code: str, line: int) -> None:
        self._counts[code] += 1
        self._first_lines.setdefault(code, line)

    def _token_in(self, record: Record) -> str | None:
        return next((token for text in _texts(record) for token in self._tokens if token in text), None)

    def _warning(self, code: str) -> DataWarning:
        count, line = self._counts[code], self._first_lines[code]
        message = _SENTENCES[code].format(
            records=f"{count} {'record' if count == 1 else 'records'}", line=line, token=repr(self._first_token)[:MAX_TOKEN_CHARACTERS]
        )
        return DataWarning.model_validate({"code": code, "records": count, "first_line": line, "message": message})


def _texts(record: Record) -> Iterator[str]:
    """Yield what the author of the record wrote and a model may read."""
    match record:
        case ChatRecord():
            for message in record.messages:
                yield from _texts_of(message)
        case PreferenceRecord():
            for message in (*record.input.messages, *record.preferred_output, *record.non_preferred_output):
                yield from _texts_of(message)
        case CompletionRecord():
            yield record.prompt
            yield record.completion
        case TextRecord():
            yield record.text


def _texts_of(message: ChatMessage) -> Iterator[str]:
    yield message.content or ""
    yield message.name or ""
    for call in message.tool_calls or ():
        yield call.function.name
        yield call.function.arguments
