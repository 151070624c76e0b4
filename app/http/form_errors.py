"""Errors of forms in our own words: the fault, its place, and the remedy."""

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import (
    DEFAULT_MAX_HEADER_COUNT,
    DEFAULT_MAX_HEADER_SIZE,
    MAX_BOUNDARY_LENGTH,
)
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from app.base.errors import InvalidRequest

CODE = "invalid_body"
MAX_PARTS = 1_000  # Starlette's limit, as is the size; no call here takes more
MAX_FIELD_BYTES = 2**20
FEW_HEADERS = "A part needs Content-Disposition, and Content-Type at most."
BOUNDARY = "Let the client library write the boundary into content-type."
ADVICE = {  # keyed by the beginning of the parser's message
    "Too many fields": f"The form has more than {MAX_PARTS} fields. "
    "Send only those that this call has.",
    "Too many files": f"The form has more than {MAX_PARTS} files. Send one in each request.",
    "Part exceeded": f"A field of the form is larger than {MAX_FIELD_BYTES} bytes. "
    "Send a larger value as a file: its part has a filename.",
    "Field exceeded": f"A field of the form is larger than {MAX_FIELD_BYTES} bytes. "
    "Send a larger value as a file, in multipart/form-data.",
    "The Content-Disposition": "A part of the form has no name. "
    "Its Content-Disposition must say which field it is.",
    "Missing boundary": f"content-type: multipart/form-data without a boundary. {BOUNDARY}",
    "Boundary length": f"content-type: a boundary of more than {MAX_BOUNDARY_LENGTH} bytes. "
    f"{BOUNDARY}",
    "Maximum header size": "A header of a part of the form is larger than "
    f"{DEFAULT_MAX_HEADER_SIZE} bytes. Send a shorter filename. {FEW_HEADERS}",
    "Maximum header count": f"A part of the form has more than {DEFAULT_MAX_HEADER_COUNT} headers. "
    f"{FEW_HEADERS}",
}
MALFORMED = (
    "The body is not a well-formed form: it is cut short, or its parts are not divided by the "
    "boundary that content-type names. Have a client library write it."
)


def refusal_of(error: HTTPException) -> InvalidRequest:
    """Turn the framework's error on a form into one of ours."""
    detail = _detail_of(error)
    advice = (text for beginning, text in ADVICE.items() if detail.startswith(beginning))
    message = next(advice, MALFORMED)
    param = "content-type" if message.startswith("content-type: ") else None
    return InvalidRequest(message, param=param, code=CODE)


def _detail_of(error: HTTPException) -> str:
    """Return the parser's own message, which the framework replaces by a general one."""
    context = error.__context__
    if isinstance(context, MultiPartException) and isinstance(context.__cause__, FormParserError):
        return str(context.__cause__)
    return error.detail
