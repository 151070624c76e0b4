import tracemalloc
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from app.base.errors import InvalidRequest
from app.evaluations.schemas import EvaluationRequest
from app.models.graders import AnyGrader
from worker.evaluation.grading import MAX_CHARACTERS, MissingField, check_fields, fill, grade

ITEM = {"reference": "Four", "answer": {"options": ["A", "B"]}, "n": 4}
OBJECT = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}

MULTI: dict[str, Any] = {  # for "Four", right is 1 and close 1/2
    "type": "multi",
    "graders": {
        "right": {"type": "string_check", "name": "right", "operation": "eq"},
        "close": {
            "type": "text_similarity",
            "name": "close",
            "evaluation_metric": "fuzzy_match",
            "reference": "Folk",
        },
    },
}


def no_judge(*_: object) -> float:
    raise AssertionError("these graders ask nobody")


def score(answer: str, **fields: Any) -> float:
    grader: Any = TypeAdapter(AnyGrader).validate_python({"name": "g"} | fields)
    return grade(grader, ITEM, answer, no_judge)


@pytest.mark.parametrize(
    ("operation", "answer", "expected"),
    [
        ("eq", "Four", 1),
        ("eq", "four", 0),
        ("ne", "four", 1),
        ("like", "It is Four.", 1),
        ("like", "It is four.", 0),
        ("ilike", "It is four.", 1),
        ("ilike", "", 0),
    ],
)
def test_string_check(operation: str, answer: str, expected: float) -> None:
    assert score(answer, type="string_check", operation=operation) == expected


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("0.7 * right + 0.3 * close", 0.85),
        ("right - close - close", 0),
        ("2 ^ -1 * right", 0.5),
        ("-close ^ 2 + 1", 0.75),
        ("max(close, min(right, .75))", 0.75),
        ("abs(floor(close) - ceil(close)) * sqrt(close / 2)", 0.5),
        ("9 * right", 1),
        ("right / (close - 0.5)", 0),
        ("exp(999) * right", 0),
        ("(0 - 8) ^ close", 0),
    ],
)
def test_multi_calculates_one_score(formula: str, expected: float) -> None:
    assert score("Four", **MULTI | {"calculate_output": formula}) == pytest.approx(expected)


def test_text_similarity() -> None:
    kind = {"type": "text_similarity", "evaluation_metric": "rouge_1"}
    assert score("four", **kind) == 1
    assert score("two four", **kind) == pytest.approx(2 / 3)
    assert score("Foun", **kind | {"evaluation_metric": "fuzzy_match"}) == 0.75


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("B", 1), ("The answer is (B), not A.", 1), ("A or B", 0), ("Bad", 0), ("b", 0), ("", 0)],
)
def test_multiple_choice_takes_the_first_that_is_a_word(answer: str, expected: float) -> None:
    kind = {"type": "multiple_choice", "choices": ["A", "B"], "reference": "B"}
    assert score(answer, **kind) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [('{"n": 1}', 1), ('{"n": "1"}', 0), ("{}", 0), ("n", 0), ("[" * 100_000, 0), ("", 0)],
)
def test_json_schema(answer: str, expected: float) -> None:
    assert score(answer, type="json_schema", schema=OBJECT) == expected


def test_a_schema_may_use_keywords_as_property_names_and_values() -> None:
    text = {"type": "string", "enum": ["$ref", {"pattern": "(a+)+$"}]}
    schema = {"type": "object", "properties": {"pattern": text}, "required": ["pattern"]}
    assert score('{"pattern": "$ref"}', type="json_schema", schema=schema) == 1
    assert score('{"pattern": "x"}', type="json_schema", schema=schema) == 0


def test_a_number_too_large_to_be_divided_is_no_multiple_of_a_fraction() -> None:
    assert score("1" + "0" * 400, type="json_schema", schema={"multipleOf": 0.5}) == 0


def test_templates_name_fields_of_the_row() -> None:
    template = "{{ item.answer.options.1 }}: {{sample.output_text}} {{item.n}} {{item.answer}}"
    assert fill(template, ITEM, "{{item.n}}") == 'B: {{item.n}} 4 {"options": ["A", "B"]}'
    for missing in ("item.no", "item.answer.options.2", "item.n.x"):
        with pytest.raises(MissingField, match=f"no field '{missing}'"):
            fill(f"{{{{{missing}}}}}", ITEM, "")
        with pytest.raises(MissingField, match=f"no field '{missing}'"):
            check_fields("{{item.n}}" + f"{{{{{missing}}}}}", ITEM)


def test_a_template_does_not_multiply_a_long_text() -> None:
    template = "{{item.reference}}" * 555
    item = {"reference": "\N{GRINNING FACE}" + "a" * 50_000}
    tracemalloc.start()
    try:
        assert len(fill(template, item, "")) == MAX_CHARACTERS
        fields = {"input": template, "reference": template, "operation": "ilike"}
        grader: Any = TypeAdapter(AnyGrader).validate_python(
            {"name": "g", "type": "string_check"} | fields
        )
        assert grade(grader, item, "", no_judge) == 1
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * 2**20, "the filled texts would be 111 MiB each"


@pytest.mark.parametrize(
    ("grader", "message"),
    [
        ({"type": "string_check", "operation": "eq", "input": "{{sample.model}}"}, "sample.model"),
        ({"type": "text_similarity", "evaluation_metric": "bleu"}, "'bleu' is not computed here"),
        ({"type": "json_schema", "schema": {"type": 3}}, "no JSON Schema"),
        ({"type": "json_schema", "schema": {"pattern": "(a+)+$"}}, "'pattern' is not supported"),
        ({"type": "json_schema", "schema": {"anyOf": [{"$ref": "#"}]}}, "is not supported"),
        (
            {"type": "json_schema", "schema": {"properties": {"properties": {"pattern": "a+"}}}},
            "'pattern' is not supported",
        ),
        ({"type": "json_schema", "schema": {"enum": [1] * 2000}}, "more than 1000 parts"),
        ({"type": "multiple_choice", "choices": ["A"]}, "at least 2"),
        ({"type": "telepathy"}, "string_check"),
        (MULTI | {"calculate_output": "right + wrong"}, "'wrong' is no grader"),
        (MULTI | {"calculate_output": "right + "}, "cannot be read as arithmetic"),
        (MULTI | {"calculate_output": "right close"}, "cannot be read as arithmetic"),
        (MULTI | {"calculate_output": "right; close"}, "cannot be read as arithmetic"),
        (MULTI | {"calculate_output": "right # wrong"}, "'#' cannot be read"),
        (MULTI | {"calculate_output": "right.__class__"}, "'right.__class__' is no grader"),
        (MULTI | {"calculate_output": "log(right, 2)"}, r"'log\(right, 2\)' is no grader"),
        (MULTI | {"calculate_output": "(" * 249 + "right" + ")" * 246}, "read as arithmetic"),
        (
            MULTI | {"calculate_output": "-" * 100 + "right" + "+ right" * 50},
            "lie within each other",
        ),
    ],
)
def test_a_bad_grader_is_refused_with_its_reason(grader: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvaluationRequest.model_validate({"graders": [{"name": "g"} | grader]})


@pytest.mark.parametrize("kind", ["label_model", "python", "endpoint"])
def test_unsupported_graders_of_openai_are_refused(kind: str) -> None:
    with pytest.raises(InvalidRequest, match=f"'{kind}' is not supported") as refusal:
        EvaluationRequest.model_validate({"graders": [{"name": "g", "type": kind}]})
    assert refusal.value.code == "grader_not_supported"


def test_two_graders_with_one_name_are_refused() -> None:
    twice = [{"type": "string_check", "name": "g", "operation": "eq"}] * 2
    with pytest.raises(ValidationError, match="two graders have one name"):
        EvaluationRequest.model_validate({"graders": twice})
