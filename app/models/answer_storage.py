from typing import Annotated

import re2
from pydantic import AfterValidator, Field

from app.models.strict_model import StrictModel

MAX_PATTERNS = 20
MAX_PATTERN_CHARACTERS = 500
MAX_PATTERN_BYTES = 2**20  # of the compiled pattern


def compile_pattern(pattern: str) -> "re2._Regexp[str]":
    """Compile a pattern of RE2, whose time is linear in the text. Raises `re2.error`."""
    options = re2.Options()
    options.max_mem = MAX_PATTERN_BYTES
    options.log_errors = False
    return re2.compile(pattern, options=options)


def _readable(pattern: str) -> str:
    try:
        compiled = compile_pattern(pattern)
    except re2.error as error:
        reason = error.args[0]
        words = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"{words}; write it in the syntax of RE2") from None
    if compiled.search(""):
        raise ValueError("the pattern fits an empty text; write one that needs a character")
    return pattern


class AnswerStorage(StrictModel):
    """Rules of a project that keeps the answers whose requests say `store`."""

    kept_days: Annotated[int, Field(ge=1, le=3_650)] = 30
    max_bytes: Annotated[
        int, Field(ge=0, le=2**40, description="of all its stored answers; 0 stores no more")
    ] = 2**30
    redact: Annotated[
        list[
            Annotated[
                str,
                Field(min_length=1, max_length=MAX_PATTERN_CHARACTERS),
                AfterValidator(_readable),
            ]
        ],
        Field(
            max_length=MAX_PATTERNS,
            description="patterns of RE2; the texts that fit are removed before an answer is kept",
        ),
    ] = []
