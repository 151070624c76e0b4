from collections.abc import Mapping
from typing import Any

from app.base.errors import InvalidRequest
from app.base.plain_words import in_plain_words

MAX_SHOWN_CHARACTERS = 60  # Characters of the typed text.


def refusal_in_plain_words(fault: Mapping[str, Any]) -> InvalidRequest:
    """Say what is wrong with a part of an address or of a form."""
    place, name, *_ = map(str, fault["loc"])
    words = in_plain_words(fault)
    if place == "query":
        typed = str(fault.get("input", ""))[:MAX_SHOWN_CHARACTERS]
        return InvalidRequest(f"“{name}={typed}” in the address cannot be read. {words}")
    return InvalidRequest(f"{name}: {words}", param=name)
