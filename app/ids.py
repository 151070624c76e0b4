from uuid_utils import uuid7


def new_id(prefix: str) -> str:
    """Time-ordered, so ids sort by creation on every database."""
    return f"{prefix}{uuid7().hex}"
