"""A record becomes the texts that the model reads, with the character ranges it has to learn.

A turn is trained as it would be served: its prompt is what the tokenizer's own template renders of
the messages before it with `add_generation_prompt`, and its target is what the template adds when
the turn ends the chat, up to and with its end-of-turn token. Where a turn stays as it is once later
turns follow, one text holds them all; where the template rewrites it (Qwen3 drops its thinking),
each such turn has a text of its own. A template is an external program: transformers runs it in
Jinja's immutable sandbox, and here its time, memory and output are bounded. Two renderings a
learned turn go by the square of their number: turns past the tokens that are kept are not looked
for, and the others have a limit. `{% generation %}` marks are not read: they may begin or end
elsewhere than serving does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from jinja2 import TemplateSyntaxError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from falqon_core.contract.errors import DatasetError, ModelError
from falqon_core.contract.figures import MAX_SEQUENCES
from falqon_core.data.content_parts import content_for
from falqon_core.data.resource_limits import OutOfBounds, run_bounded
from falqon_core.data.template_message import reasoning_field, template_message
from falqon_core.data.turn_end import control_tokens, end_before_prompt, end_token
from falqon_core.records.shapes import Chat, ChatRecord, CompletionRecord, SupervisedRecord

# All texts of one record together; its line in the file has at most a quarter of that.
MAX_RENDERED_CHARACTERS = 32 * 2**20
MAX_REASON_CHARACTERS = 300
MAX_EXCERPT_CHARACTERS = 40
# Messages rendered for one chat, to find its turns: up to message 2,000, about two seconds.
MAX_RENDERED_MESSAGES = 2_000_000
Span = tuple[int, int]
DroppedField = Literal["tool_calls", "tools", "reasoning"]


@dataclass(frozen=True)
class LearnedText:
    """A text that the model reads whole, and the ranges [start, end) of characters it learns."""

    text: str
    spans: list[Span]


@dataclass(frozen=True)
class Rendered:
    """A record as text. `plain`: no template, so the tokenizer's own begin and end tokens apply.

    `find_learned` returns what is read and learned, at least one text: `text`, or in its stead
    those of single turns; of turns that start in `text` after its argument perhaps none.
    `dropped`: the fields of the record without which the template writes the same.
    """

    text: str
    find_learned: Callable[[int], list[LearnedText]]
    plain: bool
    dropped: tuple[DroppedField, ...] = ()


def render(record: SupervisedRecord, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    """Raises `ModelError` for chat without a chat template, `DatasetError` when the template
    refuses the record.
    """
    if isinstance(record, ChatRecord):
        return _render_chat(record, tokenizer)
    if isinstance(record, CompletionRecord):
        text = record.prompt + record.completion
        return _plain(text, [(len(record.prompt), len(text))])
    return _plain(record.text, [(0, len(record.text))])


def _plain(text: str, spans: list[Span]) -> Rendered:
    return Rendered(text, lambda _: [LearnedText(text, spans)], plain=True)


def check_template(template: str) -> None:
    """Raise `ModelError` for a chat template that is no Jinja; it is parsed once, not rendered."""
    try:
        run_bounded(lambda: render_jinja_template([], chat_template=template))
    except TemplateSyntaxError as error:
        raise ModelError(
            f"the model's chat template is no Jinja, line {error.lineno}: {_reason(error)}"
        ) from None
    except Exception as error:  # Any error may come from reading an external program.
        raise ModelError(f"the model's chat template cannot be read: {_reason(error)}") from None


def _render_chat(record: ChatRecord, tokenizer: PreTrainedTokenizerBase) -> Rendered:
    if tokenizer.chat_template is None:
        raise ModelError(
            "the training file holds chats, but the model's tokenizer has no chat template"
        )
    chat = RenderedChat(record, tokenizer)
    text = chat.render(len(chat.messages))
    learned = [
        index
        for index, message in enumerate(record.messages)
        if message.role == "assistant" and message.weight != 0
    ]
    return Rendered(
        text,
        lambda last_start: chat.find_learned(learned, text, last_start),
        plain=False,
        dropped=chat.dropped(text, learned),
    )


class RenderedChat:
    """One chat and the template that applies to it."""

    def __init__(self, record: Chat, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tools = record.tools
        try:
            self.template = tokenizer.get_chat_template(tools=record.tools)
        except ValueError:
            raise ModelError(
                "the model has several chat templates, and none of them is called 'default'"
            ) from None
        check_template(self.template)
        self.reasoning_field = reasoning_field(self.template)
        self.messages = [
            template_message(message, self.template, self.reasoning_field)
            for message in record.messages
        ]
        self.special_tokens = tokenizer.special_tokens_map
        self.end_tokens = control_tokens(tokenizer)

    def render(self, num_messages: int, generation_prompt: bool = False, **variables: bool) -> str:
        """Return the text of the first `num_messages` messages; `variables` are the template's."""
        messages = self.messages[:num_messages]
        return self._render(messages, self.tools, generation_prompt, **variables)

    @cached_property
    def always_prompts(self) -> bool:
        """True where the template writes a generation prompt behind every chat, asked or not."""
        question = [self._question()]
        try:
            return self._render(question, None) == self._render(question, None, True)
        except (DatasetError, ModelError):
            return False

    def dropped(self, text: str, learned: list[int]) -> tuple[DroppedField, ...]:
        """Return the fields of the chat that leave no trace in `text`, that of the whole chat, nor
        in the first learned turn that has them.
        """
        fields: list[DroppedField] = []
        if self._writes_without("tool_calls", text):
            fields.append("tool_calls")
        if self._drops_reasoning(text, learned):
            fields.append("reasoning")
        if self.tools and self._writes(text, self.messages, None):
            fields.append("tools")
        return tuple(fields)

    def _drops_reasoning(self, text: str, learned: list[int]) -> bool:
        """Check that no reasoning is written: templates leave out that of earlier turns, and write
        it where the turn ends the chat.
        """
        field = self.reasoning_field
        if not self._writes_without(field, text):
            return False
        index = next((index for index in learned if field in self.messages[index]), None)
        if index is None:
            return True
        messages = self.messages[: index + 1]
        return self._writes(
            self._render(messages, self.tools), _without(messages, field), self.tools
        )

    def _writes_without(self, field: str, text: str) -> bool:
        """Check that messages have the field and the template writes the same without it."""
        if not any(field in message for message in self.messages):
            return False
        return self._writes(text, _without(self.messages, field), self.tools)

    def _writes(
        self, text: str, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
    ) -> bool:
        """Check that the template accepts the messages and renders exactly this text."""
        try:
            return self._render(messages, tools) == text
        except (DatasetError, ModelError):
            return False

    def _render(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        generation_prompt: bool = False,
        **variables: bool,
    ) -> str:
        try:
            (text,), _ = run_bounded(
                lambda: render_jinja_template(
                    [messages],
                    tools=tools,
                    chat_template=self.template,
                    add_generation_prompt=generation_prompt,
                    **(self.special_tokens | variables),
                )
            )
        except OutOfBounds as error:
            raise ModelError(
                f"the model's chat template {error} for one record, so it is not used"
            ) from None
        except Exception as error:  # A template may raise any error.
            what = "refuses the messages" if messages else "cannot begin with an assistant message"
            raise DatasetError(f"the model's chat template {what}: {_reason(error)}") from None
        if len(text) > MAX_RENDERED_CHARACTERS:
            raise ModelError(
                "the model's chat template makes more than 32 Mi characters of one record, so it "
                "is not used"
            )
        return str(text)

    def find_learned(self, indices: Iterable[int], text: str, last_start: int) -> list[LearnedText]:
        """Return the texts and learned ranges of these assistant messages, in their order, as far
        as they start in `text`, that of the whole chat, at `last_start` or before.
        """
        parts: list[LearnedText] = []
        num_rendered = 0
        is_cut = False
        for index in indices:
            prompt = self.render(index, generation_prompt=True)
            is_cut = len(prompt) > last_start and text.startswith(prompt)
            if is_cut:
                break
            _extend(parts, self._turn(index, prompt, text))
            num_rendered += 2 * index + 1
            self._check_limits(index, parts, num_rendered)
        if is_cut or text.startswith(_up_to_end(parts[-1])):  # The rest is cut, or not learned.
            _extend(parts, LearnedText(text, []))
        return parts

    def _turn(self, index: int, prompt: str, text: str) -> LearnedText:
        """Return the chat up to assistant message `index` and the range that the message adds to
        `prompt`, up to and with its end-of-turn token.
        """
        if index + 1 < len(self.messages):
            text = self.render(index + 1)
        if not text.startswith(prompt):
            text = prompt + self._answer(index, prompt, text)
        return LearnedText(text, [(len(prompt), self._turn_end(index, len(prompt), text))])

    def _answer(self, index: int, prompt: str, text: str) -> str:
        """Return the turn in `text` behind its header, where the template rewrites the history
        because of the turn (Qwen3, when an assistant speaks twice; Mistral, which writes the system
        message into a question that ends the chat).
        """
        header, role = self._header(index, prompt)
        roles = [message["role"] for message in self.messages[: index + 1]]
        if not header or text.count(header) != roles.count(role):
            raise self._not_served(index, prompt, text)
        return text[text.rindex(header) + len(header) :]

    def _header(self, index: int, prompt: str) -> tuple[str, str]:
        """Return the text before the answer, and the role of the messages that it comes with: the
        generation prompt, or where a template has none, the end of the question.
        """
        header = prompt.removeprefix(self.render(index)) if index else prompt
        if header:
            return header, "assistant"
        question = self.messages[index - 1]
        content = str(question["content"]).strip()
        if not content:
            return "", question["role"]
        return prompt.rpartition(content)[2], question["role"]

    def _turn_end(self, index: int, start: int, text: str) -> int:
        """Return the end of the turn: trailing white space is no target, since serving stops at the
        token before it, nor is a token that the template writes only at the end of a chat.
        """
        if self.always_prompts:
            return end_before_prompt(text[:start], text, self.end_tokens)
        turn = text[start:].rstrip()
        last_token = end_token(turn, self.end_tokens)
        if not last_token:
            return len(text)
        shorter = turn.removesuffix(last_token).rstrip()
        if end_token(shorter, self.end_tokens):
            try:
                more = [*self.messages[: index + 1], self._question()]
                longer = self._render(more, self.tools)
            except DatasetError:  # No user message may follow here.
                longer = text
            if longer.startswith(text[:start] + shorter) and not longer.startswith(
                text[:start] + turn
            ):
                turn = shorter
        return start + len(turn)

    def _question(self) -> dict[str, Any]:
        return {"role": "user", "content": content_for(self.template, "user", ["?"])}

    def _check_limits(self, index: int, parts: list[LearnedText], num_rendered: int) -> None:
        """Raise `DatasetError` for more turns than a chat may cost."""
        num_turns = sum(len(part.spans) for part in parts)
        too_many = (
            f"messages[{index}]: {{reason}}, and {num_turns} turns are too many for that; split "
            "the chat, or give earlier turns weight 0"
        )
        if num_rendered > MAX_RENDERED_MESSAGES:
            reason = "the chat is rendered up to each learned turn"
            raise DatasetError(too_many.format(reason=reason))
        num_characters = sum(len(part.text) for part in parts)
        if len(parts) > MAX_SEQUENCES or num_characters > MAX_RENDERED_CHARACTERS:
            reason = (
                "the model's chat template rewrites turns once later ones follow, so that each is "
                "a sequence of its own"
            )
            raise DatasetError(too_many.format(reason=reason))

    def _not_served(self, index: int, prompt: str, text: str) -> DatasetError:
        pairs = enumerate(zip(prompt, text, strict=False))
        shorter = min(len(prompt), len(text))
        same = next((place for place, (first, second) in pairs if first != second), shorter)
        served = prompt[same:][:MAX_EXCERPT_CHARACTERS]
        written = text[same:][:MAX_EXCERPT_CHARACTERS]
        advice = "write its reasoning (reasoning_content), have the model not reason"
        if self.reasoning_field in self.messages[index]:
            advice = "leave out its reasoning, have the model reason"
        return DatasetError(
            f"messages[{index}]: the model's chat template does not write this turn as the "
            f"continuation of its prompt: serving sends {served!r} where the turn has {written!r}, "
            f"so the trained tokens would not be the served ones; {advice} (chat_template_kwargs), "
            "or give it weight 0"
        )


def _extend(parts: list[LearnedText], turn: LearnedText) -> None:
    """Add a turn to the last text, if that stays as it is once the turn follows; else by itself."""
    if parts and turn.text.startswith(_up_to_end(parts[-1])):
        turn = LearnedText(turn.text, parts.pop().spans + turn.spans)
    parts.append(turn)


def _up_to_end(part: LearnedText) -> str:
    return part.text[: part.spans[-1][1]]


def _without(messages: list[dict[str, Any]], field: str) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in message.items() if name != field} for message in messages
    ]


def _reason(error: Exception) -> str:
    """Shorten what a template may have written, without what no terminal or database keeps."""
    text = str(error) or type(error).__name__
    return "".join(
        character if character.isprintable() else " " for character in text[:MAX_REASON_CHARACTERS]
    )
