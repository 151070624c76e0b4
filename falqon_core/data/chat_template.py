"""A record becomes the text that the model reads, with the character ranges it has to learn.

Chat goes through the tokenizer's own template, so training sees what serving will produce. The learned ranges are those the
template marks with `{% generation %}`; without marks they are found by difference: an assistant turn is what the text gains
over the rendered prompt before it. Trailing whitespace after the end-of-turn token is no target, since serving stops there.
A template is a stranger's program: transformers runs it in Jinja's immutable sandbox, and here its time, memory and output are bounded.
Finding turns without marks renders the chat up to each of them, which goes by the square of their number: turns past the tokens that
are kept are not looked for, and the others have a limit.
What is given up: a template that renders a turn differently once later turns follow (Qwen3 drops its thinking) cannot train
on that turn, and says so.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from falqon_core.contract.errors import DatasetError, ModelError
from falqon_core.data.resource_limits import OutOfBounds, bounded
from falqon_core.records.shapes import Chat, ChatMessage, ChatRecord, CompletionRecord, SupervisedRecord

_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
MAX_RENDERED_CHARACTERS = 32 * 2**20  # of one record; its line in the file has at most a quarter of that
MAX_REASON_CHARACTERS = 300
MAX_RENDERED_MESSAGES = 2_000_000  # of one chat, to find its turns without marks: up to message 2,000, about two seconds
Span = tuple[int, int]
DroppedField = Literal["tool_calls", "tools"]


@dataclass(frozen=True)
class Rendered:
    """A record as text. `plain`: no template, so the tokenizer's own begin and end tokens apply.

    `find_targets` returns the learned ranges [start, end) of characters, of those that start after its argument perhaps none.
    `dropped`: the fields of the record without which the template writes the same.
    """

    text: str
    find_targets: Callable[[int], list[Span]]
    plain: bool
    dropped: tuple[DroppedField, ...] = ()


def render(record: SupervisedRecord, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Raises `ModelError` for chat without a chat template, `DatasetError` when the template refuses the record."""
    if isinstance(record, ChatRecord):
        return _render_chat(record, tokenizer)
    if isinstance(record, CompletionRecord):
        text = record.prompt + record.completion
        return Rendered(text, lambda _: [(len(record.prompt), len(text))], plain=True)
    return Rendered(record.text, lambda _: [(0, len(record.text))], plain=True)


def render_prompt(text: str, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """What a model is given to answer: the text as a user's turn, or as it is where there is no chat template. Nothing of it is learned."""
    if tokenizer.chat_template is None:
        return Rendered(text, lambda _: [], plain=True)
    chat = _Chat(Chat(messages=[ChatMessage(role="user", content=text)]), tokenizer)
    return Rendered(chat.render(1, generation_prompt=True)[0], lambda _: [], plain=False)


def check_template(template: str) -> None:
    """Raise `ModelError` for a chat template that is no Jinja; it is read once and remembered, and nothing is rendered."""
    try:
        bounded(lambda: render_jinja_template([], chat_template=template))
    except TemplateSyntaxError as error:
        raise ModelError(f"the model's chat template is no Jinja, line {error.lineno}: {_reason(error)}", "model") from None
    except Exception as error:  # anything may go wrong in reading a stranger's program
        raise ModelError(f"the model's chat template cannot be read: {_reason(error)}", "model") from None


def _render_chat(record: ChatRecord, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    if tokenizer.chat_template is None:
        raise ModelError("the training file holds chats, but the model's tokenizer has no chat template", "model")
    chat = _Chat(record, tokenizer)
    text, marked = chat.render(len(chat.messages))
    learned = [index for index, message in enumerate(record.messages) if message.role == "assistant" and message.weight != 0]
    if chat.has_marks:
        spans = _weighted(marked, record.messages)
        return Rendered(text, lambda last: [span for span in spans if span[0] <= last], plain=False, dropped=chat.dropped(text))
    return Rendered(text, lambda last: chat.turns(learned, text, last), plain=False, dropped=chat.dropped(text))


def _weighted(marked: list[Span], messages: list[ChatMessage]) -> list[Span]:
    weights = [message.weight for message in messages if message.role == "assistant"]
    if 0 not in weights:
        return marked
    if len(marked) != len(weights):
        raise DatasetError(
            f"the chat template marks {len(marked)} turns of {len(weights)}, so 'weight' cannot be honoured", "training_file"
        )
    return [span for span, weight in zip(marked, weights, strict=True) if weight != 0]


class _Chat:
    """One chat and the template that applies to it."""

    def __init__(self, record: Chat, tokenizer: PreTrainedTokenizerBase) -> None:
        self.messages = [_template_message(message) for message in record.messages]
        self.tools = record.tools
        self.template = tokenizer.get_chat_template(tools=record.tools)
        check_template(self.template)
        self.has_marks = _GENERATION_MARK.search(self.template) is not None
        self.special_tokens = tokenizer.special_tokens_map
        self.end_tokens = tuple(tokenizer.all_special_tokens)

    def render(self, num_messages: int, generation_prompt: bool = False) -> tuple[str, list[Span]]:
        """The text of the first `num_messages` messages, and the ranges that the template marks."""
        return self._render(self.messages[:num_messages], self.tools, generation_prompt)

    def dropped(self, text: str) -> tuple[DroppedField, ...]:
        """Return the fields of the chat that leave no trace in `text`, which is the whole chat's."""
        fields: list[DroppedField] = []
        if any("tool_calls" in message for message in self.messages):
            bare = [{name: value for name, value in message.items() if name != "tool_calls"} for message in self.messages]
            if self._writes(text, bare, self.tools):
                fields.append("tool_calls")
        if self.tools and self._writes(text, self.messages, None):
            fields.append("tools")
        return tuple(fields)

    def _writes(self, text: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> bool:
        """Return whether the template makes just this text of them; one that refuses them does not."""
        try:
            return self._render(messages, tools, generation_prompt=False)[0] == text
        except (DatasetError, ModelError):
            return False

    def _render(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, generation_prompt: bool
    ) -> tuple[str, list[Span]]:
        try:
            texts, spans = bounded(
                lambda: render_jinja_template(
                    [messages],
                    tools=tools,
                    chat_template=self.template,
                    return_assistant_tokens_mask=self.has_marks,
                    add_generation_prompt=generation_prompt,
                    **self.special_tokens,
                )
            )
        except OutOfBounds as error:
            raise ModelError(f"the model's chat template {error} for one record, so it is not used", "model") from None
        except Exception as error:  # the template's own, which may be any
            what = "refuses the messages" if messages else "cannot begin with an assistant message"
            raise DatasetError(f"the model's chat template {what}: {_reason(error)}", "training_file") from None
        if len(texts[0]) > MAX_RENDERED_CHARACTERS:
            raise ModelError("the model's chat template makes more than 32 Mi characters of one record, so it is not used", "model")
        return texts[0], spans[0] if spans else []

    def turns(self, indices: Iterable[int], text: str, last_start: int) -> list[Span]:
        """Return the ranges of these assistant messages, in their order, as far as they start at `last_start` or before."""
        spans: list[Span] = []
        num_rendered = 0
        for index in indices:
            span = self.turn(index, text)
            if span[0] > last_start:
                break
            spans.append(span)
            num_rendered += 2 * index + 1
            if num_rendered > MAX_RENDERED_MESSAGES:
                raise DatasetError(
                    f"messages[{index}]: the model's chat template does not mark what is learned, so the chat is rendered up to each "
                    f"learned turn, and {len(spans)} turns are too many for that; split the chat, or give earlier turns weight 0",
                    "training_file",
                )
        return spans

    def turn(self, index: int, text: str) -> Span:
        """The range of `text` that assistant message `index` adds, up to and with its end-of-turn token."""
        before, _ = self.render(index, generation_prompt=True)
        after = text if index + 1 == len(self.messages) else self.render(index + 1)[0]
        if not after.startswith(before) or not text.startswith(after):
            raise DatasetError(
                f"messages[{index}]: the model's chat template renders this turn differently inside the whole chat than on its own, "
                "so the trained tokens would not be the served ones; give it weight 0, or end the chat there",
                "training_file",
            )
        turn = after[len(before) :]
        if turn.rstrip().endswith(self.end_tokens):
            turn = turn.rstrip()
        return len(before), len(before) + len(turn)


def _reason(error: Exception) -> str:
    """The template may have written it: short, and nothing that steers a terminal or that no database keeps."""
    text = str(error) or type(error).__name__
    return "".join(character if character.isprintable() else " " for character in text[:MAX_REASON_CHARACTERS])


def _template_message(message: ChatMessage) -> dict[str, Any]:
    """The message as templates expect it: arguments of tool calls parsed, content always a string, no weight."""
    plain = message.model_dump(exclude_none=True, exclude={"weight"})
    plain.setdefault("content", "")
    for call in plain.get("tool_calls", ()):
        try:
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        except (ValueError, RecursionError):
            name = call["function"]["name"]
            raise DatasetError(f"the arguments of the call to {name!r} are not a JSON object in a string", "training_file") from None
    return plain
