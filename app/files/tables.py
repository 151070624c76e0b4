"""What is no JSON lines yet: a worker makes them of it, before they are checked."""

import json
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from app.base.errors import InvalidRequest
from app.models import Purpose
from falqon_core.contract.sources import Mapping, SourceFormat, format_of

MAX_MAPPING_CHARACTERS = 2**14
_mapping = TypeAdapter(Mapping)


class Table(NamedTuple):
    """Of an upload: its format, and which column is which field of a record."""

    format: SourceFormat
    mapping: dict[str, str]


def table_of(
    purpose: Purpose, filename: str, head: bytes, mapping: dict[str, str] | None = None
) -> Table | None:
    """Return what has to become JSON lines; None for what is JSON lines, or is not trained with."""
    if purpose is not Purpose.FINE_TUNE:
        if mapping:
            raise InvalidRequest(
                f"mapping: only files of purpose '{Purpose.FINE_TUNE}' hold records.",
                param="mapping",
            )
        return None
    format = format_of(filename, head)
    if format == "jsonl" and not mapping:
        return None
    return Table(format, mapping or {})


def parse_mapping(text: str) -> dict[str, str]:
    """Read a mapping as a form sends it: JSON, or nothing. Raises `InvalidRequest`."""
    try:
        return _mapping.validate_python(json.loads(text)) if text.strip() else {}
    except (ValueError, ValidationError, RecursionError):
        example = '{"prompt": "question", "completion": "answer"}'
        raise InvalidRequest(
            f"mapping: write the column of each field of a record as JSON, such as {example}.",
            param="mapping",
        ) from None
