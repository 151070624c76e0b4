"""The fields that `--set` takes, as the service describes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from typing import Annotated

import typer

from app.client.api import Api, Json
from app.client.columns import Column
from app.client.command import Client, argument, command
from app.client.errors import NoConnection, NoSuchObject, Refused

OPTIONS_SCHEMA = "FalqonOptions"
PREFIX = "falqon."
UNKNOWN = "unknown_parameter"
LIST_THEM = "`falqon jobs fields` lists all of them."
# Bounds of numbers in a schema, and their wording.
BOUNDS = {
    "minimum": "from {}",
    "exclusiveMinimum": "above {}",
    "maximum": "to {}",
    "exclusiveMaximum": "below {}",
}

app = typer.Typer()


@command(app, "fields", "falqon jobs fields rank learning_rate")
def list_fields(
    client: Client,
    names: Annotated[list[str], argument(metavar="FIELD", help="Field names. Default: all.")] = [],  # noqa: B006
) -> None:
    """Show the fields of --set with their values, defaults and meaning."""
    fields = read_fields(client.api)
    for name in names:
        if name not in fields:
            raise NoSuchObject(f"There is no field {name}.", advice(name, fields))
    chosen = {name: fields[name] for name in names} if names else fields
    rows = (
        (name, _values(field), _default(field), _words(field)) for name, field in chosen.items()
    )
    values, meaning = Column("values", "wrapped"), Column("meaning", "wrapped")
    heads = ("field", values, "default", meaning)
    client.out.show(chosen, partial(client.out.table, heads, rows))


def read_fields(api: Api) -> dict[str, Json]:
    """Return the schema of each field by its name, `a.b` for one that is inside another."""
    try:
        schemas = api.read_description()["components"]["schemas"]
        options = schemas[OPTIONS_SCHEMA]
    except (KeyError, TypeError):
        raise NoConnection(
            f"{api.base_url} describes no settings of a job.", api.advice.other_service
        ) from None
    return dict(_fields(schemas, options, ""))


@contextmanager
def naming_the_field(api: Api) -> Iterator[None]:
    """Say which field could be meant where the service does not know one."""
    try:
        yield
    except Refused as error:
        param = error.body.get("param") or ""
        if error.body.get("code") == UNKNOWN and param.startswith(PREFIX):
            name = param.removeprefix(PREFIX)
            error.message = f"--set {name}: there is no such field."
            error.hint = advice(name, read_fields(api))
        raise


def advice(name: str, fields: dict[str, Json]) -> str:
    close = get_close_matches(name, fields, 1)
    return f"Did you mean {close[0]}? {LIST_THEM}" if close else LIST_THEM


def _fields(schemas: Json, schema: Json, prefix: str) -> Iterator[tuple[str, Json]]:
    for name, field in schema["properties"].items():
        choices = field.get("anyOf", [field])
        inner = next((each["$ref"] for each in choices if "$ref" in each), None)
        if inner is None:
            yield f"{prefix}{name}", field
        else:
            yield from _fields(schemas, schemas[inner.rpartition("/")[2]], f"{prefix}{name}.")


def _values(field: Json) -> str:
    return ", or ".join(
        _one_sort(each) for each in field.get("anyOf", [field]) if each.get("type") != "null"
    )


def _one_sort(schema: Json) -> str:
    if "const" in schema:
        return str(schema["const"])
    if "enum" in schema:
        return ", ".join(schema["enum"])
    if schema["type"] == "boolean":
        return "true, false"
    kind = "list of strings" if schema["type"] == "array" else str(schema["type"])
    bounds = (
        words.format(str(schema[name]).removesuffix(".0"))
        for name, words in BOUNDS.items()
        if name in schema
    )
    return " ".join([kind, *bounds])


def _default(field: Json) -> str:
    default = field.get("default")
    if default is None:
        return "auto" if "auto:" in field.get("description", "") else ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def _words(field: Json) -> str:
    return str(field.get("description", ""))
