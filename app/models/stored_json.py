"""Reading of stored JSON, which was validated on its way into the database: without the rules.

A rule that became stricter must not hide an older row, nor a list that holds one.
"""

from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import SchemaValidator

RULES = {"ge", "gt", "le", "lt", "max_length", "min_length", "pattern", "strict"}
T = TypeVar("T", bound=BaseModel)
BESIDE_THE_SCHEMA = {"default", "metadata", "serialization"}


def build_validator(model: type[BaseModel]) -> SchemaValidator:
    """Return a validator of only the model's types, old forms (`mode="before"`) and defaults."""
    # Otherwise the rules of nested models would still apply: each class has its own validator.
    return SchemaValidator(_without_rules(model.__pydantic_core_schema__), _use_prebuilt=False)


def load_valid(model: type[T], value: Any) -> T | None:
    """Return the model with only its valid fields; None if it needs the others."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        if not isinstance(value, dict):
            return None
        invalid = {details["loc"][0] for details in error.errors() if details["loc"]}
    try:
        return model.model_validate({key: value[key] for key in value if key not in invalid})
    except ValidationError:
        return None


def _without_rules(schema: Any) -> Any:
    if isinstance(schema, list | tuple):
        return type(schema)(map(_without_rules, schema))
    if not isinstance(schema, dict):
        return schema
    match schema.get("type"):
        case "function-after":
            return _without_rules(schema["schema"])
        case "literal":
            return {"type": "any"}
        case str():
            return {
                key: value if key in BESIDE_THE_SCHEMA else _without_rules(value)
                for key, value in schema.items()
                if key not in RULES | {"config"}
            }
    return {name: _without_rules(field) for name, field in schema.items()}
