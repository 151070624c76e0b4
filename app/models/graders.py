"""Graders in OpenAI's grammar, and two more: each scores an answer between 0 and 1."""

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from app.base.errors import InvalidRequest
from app.models.base import JsonObject
from app.models.grader_formula import FUNCTIONS, MAX_FORMULA, Formula, FormulaRefused
from app.models.json_schema_limits import SchemaLimits
from app.models.schema_tree import SchemaRefused
from app.models.strict_model import StrictModel

OUTPUT = "sample.output_text"
PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")
ITEM_FIELD = re.compile(r"item(\.[A-Za-z0-9_-]{1,64}){1,8}")
MAX_GRADERS = 8
MAX_JUDGE_MESSAGES = 8
MAX_JUDGES = 2  # of an evaluation: each asks a model about every answer
MAX_TEMPLATE = 10_000
MAX_SCHEMA_NODES = 1_000
# Keywords with which a schema could loop, run for ever or read from an address.
REFUSED_KEYWORDS = frozenset(
    {"$ref", "$dynamicRef", "$id", "$schema", "$anchor", "$dynamicAnchor", "pattern"}
    | {"patternProperties", "uniqueItems", "unevaluatedItems", "unevaluatedProperties"}
)
UNSUPPORTED_GRADERS = {
    "label_model": "write a score_model, whose score says which label fits",
    "python": "no code of a request runs here",
    "endpoint": "answers are sent nowhere else",
}
UNSUPPORTED_METRICS = ("bleu", "gleu", "meteor", "cosine")


def _check_template(template: str) -> str:
    for name in PLACEHOLDER.findall(template):
        if name.strip() != OUTPUT and not ITEM_FIELD.fullmatch(name.strip()):
            raise ValueError(
                f"'{name.strip()[:80]}' in braces names nothing; write {OUTPUT}, item.reference or "
                "another field of the row"
            )
    return template


Template = Annotated[
    str, Field(min_length=1, max_length=MAX_TEMPLATE), AfterValidator(_check_template)
]


class Grader(StrictModel):
    model_config = ConfigDict(serialize_by_alias=True)

    name: Annotated[str, Field(min_length=1, max_length=64)]
    input: Annotated[Template, Field(description="text to grade; usually the answer")] = (
        "{{sample.output_text}}"
    )


class StringCheck(Grader):
    type: Literal["string_check"]
    reference: Template = "{{item.reference}}"
    operation: Annotated[
        Literal["eq", "ne", "like", "ilike"],
        Field(description="like: the input holds the reference; ilike: in any case of letters"),
    ]


class TextSimilarity(Grader):
    type: Literal["text_similarity"]
    reference: Template = "{{item.reference}}"
    evaluation_metric: Literal[
        "fuzzy_match", "rouge_1", "rouge_2", "rouge_3", "rouge_4", "rouge_5", "rouge_l"
    ]

    @field_validator("evaluation_metric", mode="before")
    @classmethod
    def _refuse_unsupported(cls, metric: Any) -> Any:
        if metric in UNSUPPORTED_METRICS:
            raise ValueError(f"'{metric}' is not computed here; take rouge_l or fuzzy_match")
        return metric


class MultipleChoice(Grader):
    """Grader for answers whose first choice must be the reference."""

    type: Literal["multiple_choice"]
    reference: Template = "{{item.reference}}"
    choices: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=200)]],
        Field(
            min_length=2,
            max_length=26,
            description=(
                "such as A, B, C and D; the first of them in the answer as a separate word is "
                "the choice"
            ),
        ),
    ]


class JsonSchema(Grader):
    """Grader for answers that must be JSON, and valid under the schema."""

    type: Literal["json_schema"]
    schema_: Annotated[
        JsonObject,
        Field(
            alias="schema",
            description="JSON Schema 2020-12 without references, patterns, `uniqueItems` and "
            "`unevaluated…`",
        ),
    ]

    @field_validator("schema_")
    @classmethod
    def _is_a_schema(cls, schema: JsonObject) -> JsonObject:
        # Imported late: most installations never see a schema, and the import is slow.
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError

        _refuse_endless(schema)
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"this is no JSON Schema: {error.message[:300]}") from None
        return schema


class JudgeMessage(StrictModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Template


class ScoreModel(StrictModel):
    """Grader that has a model judge the answer."""

    type: Literal["score_model"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    model: Annotated[
        str,
        Field(
            min_length=1,
            max_length=512,
            description="a model here, or one that the operator names as a judge",
        ),
    ]
    input: Annotated[
        list[JudgeMessage],
        Field(
            min_length=1,
            max_length=MAX_JUDGE_MESSAGES,
            description="messages to the judge; they name the answer and fields of the row",
        ),
    ]
    range: Annotated[
        list[float],
        Field(
            min_length=2,
            max_length=2,
            description="least and greatest score of the judge; here they count as 0 and 1",
        ),
    ] = [0.0, 1.0]

    @field_validator("range")
    @classmethod
    def _is_ascending(cls, range: list[float]) -> list[float]:
        low, high = range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError("write the least score and then a greater one")
        return range


TextGrader = Annotated[
    StringCheck | TextSimilarity | MultipleChoice | JsonSchema | ScoreModel,
    Field(discriminator="type"),
]
PartName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]


class Multi(StrictModel):
    """Grader that calculates one score from those of several."""

    type: Literal["multi"]
    name: Annotated[str, Field(min_length=1, max_length=64)]
    graders: Annotated[
        dict[PartName, TextGrader],
        Field(min_length=1, max_length=MAX_GRADERS, description="by their names in the formula"),
    ]
    calculate_output: Annotated[
        str,
        Field(
            min_length=1,
            max_length=MAX_FORMULA,
            description="such as `0.7 * right + 0.3 * close`: + - * / ^, parentheses, "
            + ", ".join(FUNCTIONS)
            + "; a value outside of 0 to 1 is cut, and one that is not defined is 0",
        ),
    ]

    @model_validator(mode="after")
    def _can_calculate(self) -> Self:
        try:
            Formula(self.calculate_output, self.graders)
        except FormulaRefused as error:
            raise ValueError(f"calculate_output: {error}") from None
        return self


AnyGrader = Annotated[
    StringCheck | TextSimilarity | MultipleChoice | JsonSchema | ScoreModel | Multi,
    Field(discriminator="type"),
]


class Graders(StrictModel):
    """Graders of one evaluation."""

    graders: Annotated[list[AnyGrader], Field(min_length=1, max_length=MAX_GRADERS)]

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        graders = body.get("graders") if isinstance(body, dict) else None
        for i, grader in enumerate(graders if isinstance(graders, list) else ()):
            kind = grader.get("type") if isinstance(grader, dict) else None
            if isinstance(kind, str) and kind in UNSUPPORTED_GRADERS:
                raise InvalidRequest(
                    f"graders.{i}.type: '{kind}' is not supported; {UNSUPPORTED_GRADERS[kind]}.",
                    param=f"graders.{i}.type",
                    code="grader_not_supported",
                )
        return body

    @property
    def judges(self) -> list[str]:
        """Return the models that judge answers."""
        parts = [
            part
            for grader in self.graders
            for part in (grader.graders.values() if isinstance(grader, Multi) else (grader,))
        ]
        return [part.model for part in parts if isinstance(part, ScoreModel)]

    @model_validator(mode="after")
    def _judge_seldom(self) -> Self:
        if len(self.judges) > MAX_JUDGES:
            raise ValueError(
                f"graders: {len(self.judges)} of them have a model judge every answer; at most "
                f"{MAX_JUDGES} may"
            )
        return self

    @field_validator("graders")
    @classmethod
    def _have_names(cls, graders: list[AnyGrader]) -> list[AnyGrader]:
        if len({grader.name for grader in graders}) < len(graders):
            raise ValueError("two graders have one name; give each its own")
        return graders


def _refuse_endless(schema: JsonObject) -> None:
    """Refuse a schema whose check is not bounded by its size and the answer's."""
    try:
        SchemaLimits(MAX_SCHEMA_NODES, REFUSED_KEYWORDS).check(schema, "schema")
    except SchemaRefused as error:
        raise ValueError(f"{error.path}: {error.reason}") from None
