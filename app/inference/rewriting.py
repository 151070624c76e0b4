"""Rewriting of an engine's response, whole or event by event, on its way to the client."""

from typing import Any

Document = dict[str, Any]

UNKNOWN_FINGERPRINT = "b0-unknown"  # llama.cpp's, where it does not know itself
CHAT_ID = "chatcmpl-"
COMPLETION_ID = "cmpl-"


class Rewriter:
    """Changes nothing; others do."""

    def rewrite(self, document: Document) -> None:
        """Change a whole answer in place."""

    def rewrite_event(self, event: Document) -> list[Document]:
        """Return the events that the client gets in place of this one, which has choices."""
        return [event]


def trim(document: Document) -> None:
    """Remove llama.cpp's own fields from a response or an event."""
    document.pop("timings", None)
    if document.get("system_fingerprint") == UNKNOWN_FINGERPRINT:
        del document["system_fingerprint"]
    identifier = document.get("id")
    is_completion = document.get("object") == "text_completion"
    if is_completion and isinstance(identifier, str) and identifier.startswith(CHAT_ID):
        document["id"] = COMPLETION_ID + identifier.removeprefix(CHAT_ID)
