"""The form of a message's content that a chat template accepts, as servers pass it.

vLLM gives text parts to a template that loops over them, and else their texts joined by line
breaks. Whether a template does is found by trying, once for each role: one that takes a string
makes of a list its Python spelling, or an error; one that only loops makes nothing of a string.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from transformers.utils.chat_template_utils import render_jinja_template

from falqon_core.data.resource_limits import run_bounded

Role = Literal["system", "user", "assistant", "tool"]
_FIRST, _SECOND = "first-probe", "second-probe"


def content_for(template: str, role: Role, texts: Sequence[str]) -> str | list[dict[str, str]]:
    """Return the texts as the template takes those of this role."""
    joined = "\n".join(texts)
    if len(texts) <= 1 and _writes(template, role, _FIRST):
        return joined
    if _writes(template, role, _FIRST, _SECOND):
        return [_part(text) for text in texts]
    return joined


@lru_cache(maxsize=256)
def _writes(template: str, role: Role, *probes: str) -> bool:
    """Check that the template writes one text as a string, or several as parts."""
    content: Any = [_part(probe) for probe in probes] if len(probes) > 1 else probes[0]
    question: Any = [_part("?")] if len(probes) > 1 else "?"
    message = {"role": role, "content": content}
    messages = [message] if role in ("system", "user") else [_question(question), message]
    if role == "system":
        messages.append(_question(question))
    try:
        (text,), _ = run_bounded(lambda: render_jinja_template([messages], chat_template=template))
    except Exception:  # A template refuses so in its own way.
        return False
    is_spelled_out = "'type'" in text or '"type"' in text
    return all(probe in text for probe in probes) and not is_spelled_out


def _question(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
