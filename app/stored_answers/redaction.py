"""Removal of what a project's patterns fit, in time linear in the text."""

import json
from collections.abc import Sequence
from typing import Any

from app.models.answer_storage import compile_pattern

REDACTED = "[redacted]"
# Fields whose texts say what an object is, and not what somebody wrote.
STRUCTURE = frozenset(
    {
        "call_id",
        "finish_reason",
        "id",
        "model",
        "name",
        "object",
        "previous_response_id",
        "role",
        "status",
        "tool_call_id",
        "type",
    }
)


class Redactor:
    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = [compile_pattern(pattern) for pattern in patterns]

    def text(self, text: str) -> str:
        # Halves of one character, as they come in two events of a stream, become the character.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        for pattern in self._patterns:
            text = pattern.sub(REDACTED, text)
        return text

    def value(self, value: Any, name: str = "") -> Any:
        """Return a JSON value with its texts redacted."""
        if isinstance(value, str):
            if name in STRUCTURE:
                return value
            return self._arguments(value) if name == "arguments" else self.text(value)
        if isinstance(value, list):
            return [self.value(each, name) for each in value]
        if isinstance(value, dict):
            redacted = {key: self.value(each, key) for key, each in value.items()}
            pairs = value.get("metadata")
            if not name and isinstance(pairs, dict):  # a part's may be a field of a schema
                redacted["metadata"] = self.pairs(pairs)
            return redacted
        return value

    def pairs(self, pairs: dict[str, Any]) -> dict[str, Any]:
        """Return metadata with its values redacted, whatever their names."""
        return {key: self.value(each) for key, each in pairs.items()}

    def _arguments(self, text: str) -> str:
        """Redact the arguments of a call, which stay JSON."""
        try:
            parsed = json.loads(text)
        except ValueError:
            return self.text(text)
        return json.dumps(self._leaves(parsed), ensure_ascii=False)

    def _leaves(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._leaves(each) for each in value]
        if isinstance(value, dict):
            return {key: self._leaves(each) for key, each in value.items()}
        if isinstance(value, str):
            return self.text(value)
        written = json.dumps(value)
        redacted = self.text(written)
        return value if redacted == written else redacted
