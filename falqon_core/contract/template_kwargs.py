"""Variables of a chat template, such as `enable_thinking`, as a recipe and an inspection have them.

Their one text (sorted, no spaces) is what tells two inspections apart; no variables are no text.
"""

import json
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, TypeAdapter
from pydantic_core import PydanticCustomError

# Arguments that come with each chat; no default may stand for them.
RESERVED = frozenset({"messages", "tools", "documents", "add_generation_prompt", "chat_template"})

TemplateVariable = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=64)
]
TemplateValue = bool | int | float | Annotated[str, StringConstraints(max_length=200)]


def _refuse_reserved(values: dict[str, TemplateValue]) -> dict[str, TemplateValue]:
    if names := sorted(RESERVED & values.keys()):
        message = "'{name}' comes with each chat and has no default; leave it out"
        raise PydanticCustomError("reserved", message, {"name": names[0]})
    return values


TemplateKwargs = Annotated[
    dict[TemplateVariable, TemplateValue], Field(max_length=16), AfterValidator(_refuse_reserved)
]
_KWARGS: TypeAdapter[dict[str, TemplateValue]] = TypeAdapter(
    TemplateKwargs, config=ConfigDict(strict=True, allow_inf_nan=False)
)


def read_template_kwargs(text: str) -> dict[str, TemplateValue]:
    """Read them from JSON; no text means none. Raises `pydantic.ValidationError`."""
    return _KWARGS.validate_json(text or "{}")


def write_template_kwargs(values: Mapping[str, TemplateValue] | None) -> str:
    """Write them as their one text."""
    if not values:
        return ""
    return json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
