"""Schemas that engines and graders are given, and those that would have them compute for ever."""

from typing import Annotated, Any, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from app.models.json_schema_limits import MAX_ENUM_VALUES, MAX_PARTS, SchemaLimits
from app.models.schema_patterns import PatternRefused, cost_of
from app.models.schema_tree import SchemaRefused, without_true

ITSELF = {"$ref": "#/$defs/node"}


def of_definitions(**definitions: object) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{next(iter(definitions))}", "$defs": definitions}


def array_of(items: object, **others: object) -> dict[str, Any]:
    return {"type": "array", "items": items} | others


def object_of(**properties: object) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


class Add(BaseModel):
    kind: Literal["add"]
    left: "Expression"
    right: "Expression"


class Number(BaseModel):
    kind: Literal["number"]
    value: float


Expression = Annotated[Add | Number, Field(discriminator="kind")]


class File(BaseModel):
    name: str


class Folder(BaseModel):
    name: str
    entries: list["Folder | File"]


class Order(BaseModel):
    """What users of pydantic send."""

    formula: Expression
    folder: Folder
    number: int = Field(ge=0, le=10)
    name: str = Field(pattern="^[A-Z][a-z]{1,40}( [A-Z][a-z]*)?$", max_length=5_000)
    address: Optional["Order"] = None
    tags: list[str] | None = Field(default=None, max_length=10)
    sizes: dict[str, int] = {}


OPERATIONS = of_definitions(
    node={
        "anyOf": [
            *(object_of(**{name: ITSELF}) for name in ("not", "abs", "neg")),
            *(object_of(name={}, **{name: array_of(ITSELF)}) for name in ("sum", "product")),
            *(object_of(kind={"enum": [i, -i]}, of=ITSELF) for i in range(1, 40)),
        ]
    }
)
ANY_JSON = of_definitions(
    node={
        "anyOf": [
            {"type": "object", "additionalProperties": ITSELF},
            array_of(ITSELF),
            {"type": ["string", "number", "boolean", "null"]},
        ]
    }
)


@pytest.mark.parametrize(
    "schema",
    [
        {},
        Order.model_json_schema(),
        ANY_JSON,
        OPERATIONS,
        object_of(**{f"field{i}": {"type": "string"} for i in range(1_000)}),
        {"enum": [f"value{i}" for i in range(MAX_ENUM_VALUES)]},
        {"type": "object", "properties": {f"p{i}": {"type": "string"} for i in range(200)}},
    ],
)
def test_ordinary_schemas_pass(schema: dict[str, Any]) -> None:
    SchemaLimits().check(schema, "schema")


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        (5, "schema"),
        ({"properties": {"a": 5}}, "schema.properties.a"),
        ({"anyOf": {}}, "schema.anyOf"),
        ({"required": "a"}, "schema.required"),
        ({"type": ["array", "array"], "items": {}}, "schema.type"),
        ({"enum": []}, "schema.enum"),
        (array_of({}, minItems=5, maxItems=2), "schema.maxItems"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "schema.maxLength"),
        ({"type": "integer", "minimum": 5, "maximum": 2}, "schema.maximum"),
        ({"type": "integer", "minimum": 1e300}, "schema.minimum"),
        ({"type": "string", "minLength": 2_001}, "schema.minLength"),
        ({"const": "x" * 200_000}, "schema"),
        ({"properties": {"!" * 50_000: {}}}, f"schema.properties.{'!' * 300}"[:300]),
        ({"$ref": "https://a.example/schema.json"}, "schema.$ref"),
        ({"$ref": "#/$defs/missing"}, "schema.$ref"),
        ({"$ref": "#"}, "schema.$ref"),
        (of_definitions(node=ITSELF), "schema"),
        (of_definitions(node={"anyOf": [ITSELF, {"type": "null"}]}), "schema"),
        (of_definitions(node={"allOf": [ITSELF]}), "schema"),
        ({"allOf": [object_of(a={}), object_of(a={})]}, "schema.allOf"),
        ({"enum": list(range(19_000))}, "schema"),
        ({"items": {"anyOf": [{}] * (MAX_PARTS + 1)}}, "schema"),
        ({"anyOf": [{"const": i} for i in range(101)]}, "schema.anyOf"),
        ({"properties": {f"p{i}": {} for i in range(201)}}, "schema.properties"),
    ],
)
def test_a_refusal_names_its_place(schema: Any, path: str) -> None:
    with pytest.raises(SchemaRefused) as raised:
        SchemaLimits().check(schema, "schema")
    assert raised.value.path == path


@pytest.mark.parametrize(
    "schema",
    [
        of_definitions(node={"anyOf": [array_of(ITSELF), array_of(ITSELF, maxItems=5)]}),
        of_definitions(node={"anyOf": [object_of(of=ITSELF, a={}), object_of(of=ITSELF, b={})]}),
        of_definitions(node={"anyOf": [array_of(ITSELF), array_of(ITSELF, minItems=1)]}),
        of_definitions(
            **{
                f"d{i}": {"anyOf": [array_of({"$ref": f"#/$defs/d{i + 1}"}, maxItems=n)] * 2}
                for i, n in enumerate(range(20))
            },
            d20={"type": "string"},
        ),
        {"anyOf": [{"type": "string", "pattern": "^" + "a?" * 40 + "$"}] * 4},
    ],
    ids=["arrays", "objects", "bounded", "doubled by references", "patterns"],
)
def test_an_ambiguous_schema_of_endless_matches_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(SchemaRefused, match=r"begin|ways"):
        SchemaLimits().check(schema, "schema")


def test_a_schema_that_takes_anything_is_written_as_an_object() -> None:
    values = {"const": True, "enum": [True], "default": True, "required": ["a"]}
    schema = {
        "properties": {"a": True, "items": {"items": True}, "c": False},
        "anyOf": [True, values],
        "additionalProperties": False,
        "$defs": {"x": True},
    }
    assert without_true(schema) == {
        "properties": {"a": {}, "items": {"items": {}}, "c": False},
        "anyOf": [{}, values],
        "additionalProperties": False,
        "$defs": {"x": {}},
    }


def test_objects_that_take_any_other_property_do_not_differ_by_their_end() -> None:
    for others in (True, {}):
        choice = {
            "anyOf": [object_of(a=ITSELF), {"type": "object", "additionalProperties": others}]
        }
        with pytest.raises(SchemaRefused, match="begin alike"):
            SchemaLimits().check(of_definitions(node=choice), "schema")


def test_the_schemas_of_a_request_share_their_limits() -> None:
    limits = SchemaLimits()
    enum = {"enum": [f"value{i}" for i in range(MAX_ENUM_VALUES // 2)]}
    limits.check(enum, "tools.0")
    limits.check(enum, "tools.1")
    with pytest.raises(SchemaRefused, match="values in enums") as raised:
        limits.check({"enum": ["one more"]}, "tools.2")
    assert raised.value.path == "tools.2.enum"


@pytest.mark.parametrize(
    "pattern",
    [
        "^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\\.[A-Za-z]{2,}$",
        "^#[0-9a-fA-F]{6}$",
        "^(\\([0-9]{3}\\))?[0-9]{3}-[0-9]{4}$",
        "^(?:yes|no|)$",
        "^.{0,1000}$",
        "^a+?b*?$",
        "^$",
    ],
)
def test_patterns_that_every_engine_follows(pattern: str) -> None:
    cost_of(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        *("", "^", "$", "abc", "^abc", "abc$"),
        *("^a(b$", "^ab)$", "^a[b$", "^[]$", "^]$", "^a}$", "^{$", "^a\0$", "^\\$"),
        *("^a{2,1}$", "^a{,3}$", "^a{x}$", "^a{-1}$", "^a{99999999999}$", "^a{2$", "^a{\u0663}$"),
        *("^*$", "^a**$", "^a{2}{3}$", "^|*$", "^(*)$"),
        *("^\\d$", "^\\w$", "^\\b$", "^\\p{L}$", "^[\\d]$", "^\\1$", "^\\/$"),
        *("^(?=a)$", "^(?i)a$", "^(?P<n>a)$", "^(?<n>a)$", "^a$b$", "^a|^b$"),
        *("^(a?){500}$", "^(a{1,100}){1,100}$", "^((a?){30}){30}$", "^(a{1000}){3}$"),
        f"^{'a?' * 200}$",
        f"^{'(' * 11}a{')' * 11}$",
        f"^{'a{1,999}' * 3}$",
        f"^{'|'.join('a' * 202)}$",
        f"^{'a' * 500}$",
    ],
)
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(PatternRefused, match=r"\w"):
        cost_of(pattern)
