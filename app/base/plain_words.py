"""Errors about a value, in words that need no knowledge of a program."""

import re
from collections.abc import Mapping
from typing import Any

_WORDS = {
    "missing": "This is required.",
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
    "string_too_short": "This is required.",
    "string_too_long": "Write at most {max_length} characters.",
    "string_pattern_mismatch": "It has a character that is not allowed here.",
    "too_long": "At most {max_length} are allowed.",
    "too_short": "Enter at least {min_length}.",
    "literal_error": "Choose one of {expected}.",
    "enum": "Choose one of {expected}.",
    "url_parsing": "Write a whole address, such as https://hooks.example.com/falqon.",
    "url_scheme": "Write an address that begins with {expected_schemes}.",
    "url_too_long": "Write at most {max_length} characters.",
    "extra_forbidden": "There is no such field.",
    "invalid_key": "There is no such field.",
    "multiple_of": "Write a multiple of {multiple_of}.",
    "int_parsing_size": "Write a smaller number.",
    "decimal_type": "Write a number.",
    "decimal_parsing": "Write a number.",
    "decimal_max_digits": "Write at most {max_digits} digits.",
    "decimal_max_places": "Write at most {decimal_places} decimals.",
    "decimal_whole_digits": "Write at most {whole_digits} digits before the point.",
    "date_type": "Write a day, such as 2026-11-28.",
    "date_parsing": "Write a day, such as 2026-11-28.",
    "date_from_datetime_parsing": "Write a day, such as 2026-11-28.",
    "date_from_datetime_inexact": "Write a day without a time, such as 2026-11-28.",
    "datetime_type": "Write a moment, such as 2026-11-28T12:00:00Z.",
    "datetime_parsing": "Write a moment, such as 2026-11-28T12:00:00Z.",
    "datetime_from_date_parsing": "Write a moment, such as 2026-11-28T12:00:00Z.",
    "union_tag_invalid": "Choose one of {expected_tags}.",
    "union_tag_not_found": "Add {discriminator}.",
    "url_type": "Write a whole address, such as https://hooks.example.com/falqon.",
    "url_syntax_violation": "Write a whole address, such as https://hooks.example.com/falqon.",
}
_WORDS_OF_PATTERNS = {
    r"^[A-Za-z0-9._-]*$": "Write letters, digits, dots, underscores and hyphens only.",
    r"^[A-Za-z_][A-Za-z0-9_]*$": "Write letters, digits and underscores only, no digit first.",
}


_PYDANTIC = re.compile(r"^(Input|Value|Data) (?=should|is)")


def in_plain_words(fault: Mapping[str, Any]) -> str:
    """Return a sentence for one of pydantic's faults, and that of a validator of ours as it is."""
    details = fault.get("ctx", {})
    words = _WORDS_OF_PATTERNS.get(details.get("pattern", "")) or _WORDS.get(fault["type"])
    if words is None:
        message = str(fault["msg"]).removeprefix("Value error, ")
        return _PYDANTIC.sub("This ", message)
    numbers = {name: f"{value:g}" for name, value in details.items() if isinstance(value, float)}
    return words.format_map({**details, **numbers})
