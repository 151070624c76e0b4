"""Effects of a model on records that their author may not expect: fields that leave no trace,
answers without reasoning, chats that become several sequences, and text that becomes control
tokens.

It changes nothing of what is trained. A template that writes some of a chat's calls and leaves out
others is not noticed.
"""

import re
from collections.abc import Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from falqon_core.contract.inspection import DataWarning
from falqon_core.data.chat_template import Rendered
from falqon_core.data.reasoning import expects_reasoning, shows_reasoning
from falqon_core.data.turn_end import control_tokens
from falqon_core.records.shapes import (
    ChatMessage,
    ChatRecord,
    CompletionRecord,
    PreferenceRecord,
    Record,
    TextRecord,
)

MATCHES_NOWHERE = r"(?!)"  # A pattern that matches nowhere.
# Characters shown of a control token, whose text the model's author chose.
MAX_TOKEN_CHARACTERS = 40

_SENTENCES = {
    "tool_calls_dropped": (
        "Tool calls of {records} are left out by the model's chat template, so they are not "
        "learned; the first is in line {line}. "
        "Train a model whose template writes tool calls, or write the calls into 'content'."
    ),
    "tools_dropped": (
        "The tools of {records} are left out by the model's chat template; the first is in line "
        "{line}. "
        "Train a model whose template writes tools, or describe them in a system message."
    ),
    "reasoning_dropped": (
        "The reasoning of {records} is left out by the model's chat template, so it is not "
        "learned; the first is in line {line}. "
        "Train a model whose template writes reasoning, or write it into 'content'."
    ),
    "reasoning_missing": (
        "The model reasons before it answers, and {records} teach it to answer without; the first "
        "is in line {line}. "
        "Write 'reasoning_content' into the answers, or train it as a model that does not reason, "
        'where its chat template can: chat_template_kwargs {{"enable_thinking": false}}.'
    ),
    "turns_rewritten": (
        "The model's chat template rewrites turns once later ones follow, so each learned turn of "
        "{records} is a sequence of its own, {sequences} together; the first is in line {line}. "
        "Give turns weight 0 if that is too much to train on."
    ),
    "control_tokens": (
        "The text of {records} holds control tokens of the model, which act as such; the first is "
        "in line {line}: {token}. "
        "Remove them, unless they are meant."
    ),
}


class WarningCounts:
    """Counts of a file's records by kind of warning, with the first line of each."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        # One pass over a text serves all tokens.
        tokens = "|".join(map(re.escape, sorted(control_tokens(tokenizer).texts)))
        self._tokens = re.compile(tokens or MATCHES_NOWHERE)
        self._expects_reasoning = expects_reasoning(tokenizer)
        self._num_sequences = 0
        self._counts = dict.fromkeys(_SENTENCES, 0)
        self._first_lines: dict[str, int] = {}
        self._first_token = ""

    def add(
        self, line: int, record: Record, rendered: Sequence[Rendered], num_sequences: int
    ) -> None:
        """`num_sequences`: that the record has become."""
        if isinstance(record, ChatRecord) and num_sequences > 1:
            self._num_sequences += num_sequences
            self._count("turns_rewritten", line)
        if self._expects_reasoning and not shows_reasoning(record):
            self._count("reasoning_missing", line)
        for field in {field for text in rendered for field in text.dropped}:
            self._count(f"{field}_dropped", line)
        if token := self._token_in(record):
            self._first_token = self._first_token or token
            self._count("control_tokens", line)

    def warnings(self) -> list[DataWarning]:
        """Return the warnings of the file, in the order of their first lines."""
        return [self._warning(code) for code in self._first_lines]

    def _count(self, code: str, line: int) -> None:
        self._counts[code] += 1
        self._first_lines.setdefault(code, line)

    def _token_in(self, record: Record) -> str | None:
        matches = map(self._tokens.search, _texts(record))
        return next((match[0] for match in matches if match), None)

    def _warning(self, code: str) -> DataWarning:
        count = self._counts[code]
        line = self._first_lines[code]
        message = _SENTENCES[code].format(
            records=f"{count} {'record' if count == 1 else 'records'}",
            line=line,
            token=repr(self._first_token)[:MAX_TOKEN_CHARACTERS],
            sequences=self._num_sequences,
        )
        return DataWarning.model_validate(
            {"code": code, "records": count, "first_line": line, "message": message}
        )


def _texts(record: Record) -> Iterator[str]:
    """Yield the texts of the record that its author wrote and a model may read."""
    match record:
        case ChatRecord():
            for message in record.messages:
                yield from _texts_of(message)
        case PreferenceRecord():
            for message in (
                *record.input.messages,
                *record.preferred_output,
                *record.non_preferred_output,
            ):
                yield from _texts_of(message)
        case CompletionRecord():
            yield record.prompt
            yield record.completion
        case TextRecord():
            yield record.text


def _texts_of(message: ChatMessage) -> Iterator[str]:
    yield message.text
    yield message.reasoning_content or ""
    yield message.name or ""
    for call in message.tool_calls or ():
        yield call.function.name
        yield call.function.arguments
