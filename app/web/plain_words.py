"""Errors about a typed value, in words that need no knowledge of a program."""

from collections.abc import Mapping
from typing import Any

from app.base.errors import InvalidRequest

MAX_SHOWN_CHARACTERS = 60  # Characters of the typed text.

_WORDS = {
    "missing": "Fill this in.",
    "int_parsing": "Write a whole number.",
    "int_type": "Write a whole number.",
    "int_from_float": "Write a whole number.",
    "float_parsing": "Write a number.",
    "float_type": "Write a number.",
    "finite_number": "Write a number.",
    "bool_parsing": "Write true or false.",
    "bool_type": "Write true or false.",
    "string_type": "Write text, in quotes.",
    "list_type": "Write a list.",
    "tuple_type": "Write a list.",
    "dict_type": "Write a JSON object.",
    "model_type": "Write a JSON object.",
    "greater_than": "Write a number greater than {gt}.",
    "greater_than_equal": "Write {ge} or more.",
    "less_than": "Write a number less than {lt}.",
    "less_than_equal": "Write {le} or less.",
    "string_too_short": "Fill this in.",
    "string_too_long": "Write at most {max_length} characters.",
    "string_pattern_mismatch": "It has a character that is not allowed here.",
    "too_long": "At most {max_length} are allowed.",
    "too_short": "Enter at least {min_length}.",
    "literal_error": "Choose one of {expected}.",
    "enum": "Choose one of {expected}.",
    "url_parsing": "Write a whole address, such as https://hooks.example.com/falqon.",
    "url_scheme": "Write an address that begins with {expected_schemes}.",
    "url_too_long": "Write at most {max_length} characters.",
    "extra_forbidden": "There is no such setting.",
}
_WORDS_OF_PATTERNS = {
    r"^[A-Za-z0-9._-]*$": "Write letters, digits, dots, underscores and hyphens only.",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "Write letters, digits and underscores only, no digit first.",
}


def in_plain_words(fault: Mapping[str, Any]) -> str:
    """Return a sentence for one of pydantic's faults."""
    details = fault.get("ctx", {})
    words = _WORDS_OF_PATTERNS.get(details.get("pattern", "")) or _WORDS.get(fault["type"])
    if words is None:
        return str(fault["msg"]).removeprefix("Value error, ")
    numbers = {name: f"{value:g}" for name, value in details.items() if isinstance(value, float)}
    return words.format_map({**details, **numbers})


def refusal_in_plain_words(fault: Mapping[str, Any]) -> InvalidRequest:
    """Say what is wrong with a part of an address or of a form."""
    place, name, *_ = map(str, fault["loc"])
    words = in_plain_words(fault)
    if place == "query":
        typed = str(fault.get("input", ""))[:MAX_SHOWN_CHARACTERS]
        return InvalidRequest(f"“{name}={typed}” in the address cannot be read. {words}")
    return InvalidRequest(f"{name}: {words}", param=name)
