"""Messages of pydantic as people read them."""

import re
from typing import Any

import pytest
from pydantic_core import PydanticKnownError
from pydantic_core._pydantic_core import list_all_errors

from app.base.errors import refusal_of
from app.base.plain_words import in_plain_words


def test_no_message_speaks_of_inputs() -> None:
    for known in list_all_errors():
        context: Any = known.get("example_context")
        message = PydanticKnownError(known["type"], context).message()
        fault = {"type": known["type"], "msg": message, "ctx": context or {}}
        assert not re.match("Input |Field required|Extra inputs", in_plain_words(fault))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"type": "missing", "msg": "Field required"}, "a.b: This is required."),
        (
            {"type": "enum", "msg": "Input should be 1 or 2", "ctx": {"expected": "1 or 2"}},
            "a.b: Choose one of 1 or 2.",
        ),
        ({"type": "value_error", "msg": "Value error, too odd"}, "a.b: too odd"),
    ],
)
def test_a_refusal_says_where_and_what_in_plain_words(fault: dict[str, Any], message: str) -> None:
    assert refusal_of(fault | {"loc": ("body", "a", "b")}).message == message
