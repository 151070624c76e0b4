import re
from datetime import datetime

from uuid_utils import uuid7

_RANDOM = re.compile(r"[0-9a-f]{32}")


def new_id(prefix: str) -> str:
    """Return a time-ordered id, so ids sort by creation on every database."""
    return f"{prefix}{uuid7().hex}"


def first_id(prefix: str, moment: datetime) -> str:
    """Return the id that sorts after the ids made before this moment and before all others."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return f"{prefix}{milliseconds:012x}"


def is_id(prefix: str, text: str) -> bool:
    return text.startswith(prefix) and _RANDOM.fullmatch(text, len(prefix)) is not None
