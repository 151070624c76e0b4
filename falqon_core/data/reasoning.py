"""Reasoning of models before their answers, and of records as examples of it.

A chat template tells: it writes the reasoning of a message after the prompt that serving sends, or
it has a switch `enable_thinking` that is on. A template without either is not noticed.
"""

import re

from transformers import PreTrainedTokenizerBase

from falqon_core.contract.errors import DatasetError, ModelError
from falqon_core.data.chat_template import RenderedChat
from falqon_core.records.shapes import Chat, ChatMessage, ChatRecord, PreferenceRecord, Record

_REASONING = "falqon reasons"
# Marks of reasoning inside of an answer, in models of several families.
_MARK = re.compile(r"</?think(ing)?>|<\|channel\|?>")


def expects_reasoning(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Check that serving leaves it to the model to reason."""
    if tokenizer.chat_template is None:
        return False
    messages = [
        ChatMessage(role="user", content="?"),
        ChatMessage(role="assistant", content="!", reasoning_content=_REASONING),
    ]
    try:
        chat = RenderedChat(Chat(messages=messages), tokenizer)
        prompt = chat.render(1, generation_prompt=True)
        text = chat.render(2)
        if text.startswith(prompt) and _REASONING in text:
            return True
        return prompt != chat.render(1, True, enable_thinking=False)
    except (DatasetError, ModelError):  # The template accepts no such chat.
        return False


def shows_reasoning(record: Record) -> bool:
    """Check that a learned answer has reasoning; records without chats need none."""
    match record:
        case ChatRecord():
            answers = [m for m in record.messages if m.role == "assistant" and m.weight != 0]
        case PreferenceRecord():
            answers = [*record.preferred_output, *record.non_preferred_output]
        case _:
            return True
    return any(answer.reasoning_content or _MARK.search(answer.text) for answer in answers)
