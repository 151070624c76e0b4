import re

from uuid_utils import uuid7

_RANDOM = re.compile(r"[0-9a-f]{32}")


def new_id(prefix: str) -> str:
    """Time-ordered, so ids sort by creation on every database."""
    return f"{prefix}{uuid7().hex}"


def is_id(prefix: str, text: str) -> bool:
    return text.startswith(prefix) and _RANDOM.fullmatch(text, len(prefix)) is not None
