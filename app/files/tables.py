"""Tables that a worker converts into JSON lines before the check, and forms with a file."""

import json
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from app.base.errors import InvalidRequest
from app.models import Purpose
from falqon_core.contract.sources import ColumnMapping, SourceFormat, format_of, is_gzip

MAX_MAPPING_CHARACTERS = 2**14
_mapping = TypeAdapter(ColumnMapping)


@dataclass(frozen=True, slots=True)
class UploadTable:
    """Table format of an upload, and the mapping of its columns to the fields of a record."""

    format: SourceFormat
    mapping: dict[str, str]


def table_of(
    purpose: Purpose, filename: str, head: bytes, mapping: dict[str, str] | None = None
) -> UploadTable | None:
    """Return the table to convert into JSON lines; None if the file is JSON lines, or is not for
    training.
    """
    if purpose is not Purpose.FINE_TUNE:
        if mapping:
            raise InvalidRequest(
                f"mapping: only files of purpose '{Purpose.FINE_TUNE}' hold records.",
                param="mapping",
            )
        return None
    format = format_of(filename, head)
    if format == "jsonl" and not mapping and not is_gzip(head):
        return None
    return UploadTable(format, mapping or {})


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


def parse_filename(name: str | None) -> str | None:
    """Return the name of a file that a form sends, with the quotation marks that it escapes."""
    # Line breaks stay escaped: a name with one of them is refused.
    return name and name.replace("%22", '"')
