"""Grades of an answer: numbers between 0 and 1."""

import json
import re
from collections.abc import Callable
from typing import Any

from app.models.grader_formula import Formula
from app.models.graders import (
    OUTPUT,
    PLACEHOLDER,
    AnyGrader,
    JsonSchema,
    Multi,
    MultipleChoice,
    ScoreModel,
    StringCheck,
    TextSimilarity,
)
from falqon_core.records.jsonl import BadRecord, parse_line
from worker.evaluation.similarity import fuzzy_match, rouge_l, rouge_n

Item = dict[str, Any]
Judge = Callable[[ScoreModel, Item, str], float]
# Limit of a filled template. A row may have megabytes, and a template names a value hundreds of
# times.
MAX_CHARACTERS = 100_000


class MissingField(Exception):
    """A template names a field that a row does not have."""


def grade(grader: AnyGrader, item: Item, answer: str, judge: Judge) -> float:
    """Return the grade. Raises `MissingField`, and what the judge raises."""
    if isinstance(grader, Multi):
        scores = {name: grade(part, item, answer, judge) for name, part in grader.graders.items()}
        return Formula(grader.calculate_output, scores)(scores)
    if isinstance(grader, ScoreModel):
        return judge(grader, item, answer)
    text = fill(grader.input, item, answer)
    if isinstance(grader, JsonSchema):
        return float(_is_valid(text, grader))
    reference = fill(grader.reference, item, answer)
    match grader:
        case StringCheck():
            return float(_check(grader.operation, text, reference))
        case TextSimilarity():
            return _similarity(grader.evaluation_metric, text, reference)
        case MultipleChoice():
            return float(_first_choice(text, grader.choices) == reference.strip())


def templates_of(grader: AnyGrader) -> list[str]:
    if isinstance(grader, Multi):
        return [template for part in grader.graders.values() for template in templates_of(part)]
    if isinstance(grader, ScoreModel):
        return [message.content for message in grader.input]
    return [grader.input, getattr(grader, "reference", "")]


def fill(template: str, item: Item, answer: str) -> str:
    """Put values in the places that name them, up to `MAX_CHARACTERS` in all; what is no text is
    written as JSON would be. Raises `MissingField`.
    """
    parts: list[str] = []
    room = MAX_CHARACTERS
    end = 0
    for place in PLACEHOLDER.finditer(template):
        for part in (template[end : place.start()], _text_of(place, item, answer)):
            parts.append(part[:room])
            room -= len(parts[-1])
        end = place.end()
        if not room:
            break
    parts.append(template[end:][:room])
    return "".join(parts)


def check_fields(template: str, item: Item) -> None:
    """Raise `MissingField` for a place that names what the row does not have."""
    for place in PLACEHOLDER.finditer(template):
        if (name := place[1].strip()) != OUTPUT:
            _field(item, name)


def _text_of(place: re.Match[str], item: Item, answer: str) -> str:
    name = place[1].strip()
    if name == OUTPUT:
        return answer
    value = _field(item, name)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _field(item: Item, name: str) -> Any:
    value: Any = item
    for part in name.split(".")[1:]:
        if isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            raise MissingField(f"it has no field '{name}'")
    return value


def _check(operation: str, text: str, reference: str) -> bool:
    match operation:
        case "eq":
            return text == reference
        case "ne":
            return text != reference
        case "like":
            return reference in text
    return reference.lower() in text.lower()


def _similarity(metric: str, text: str, reference: str) -> float:
    if metric == "fuzzy_match":
        return fuzzy_match(text, reference)
    if metric == "rouge_l":
        return rouge_l(text, reference)
    return rouge_n(text, reference, int(metric.removeprefix("rouge_")))


def _first_choice(text: str, choices: list[str]) -> str | None:
    # The longest first, where one begins another.
    words = "|".join(re.escape(choice) for choice in sorted(choices, key=len, reverse=True))
    match = re.search(rf"(?<!\w)(?:{words})(?!\w)", text)
    return match and match[0]


def _is_valid(text: str, grader: JsonSchema) -> bool:
    from jsonschema import Draft202012Validator  # Slow to import, as in `app.models.graders`.

    try:
        value = parse_line(text, 1)
    except BadRecord:
        return False
    try:
        return bool(Draft202012Validator(grader.schema_).is_valid(value))
    except OverflowError:  # `multipleOf` a fraction, and a number beyond what floats hold
        return False
