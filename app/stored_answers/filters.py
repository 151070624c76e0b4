"""Filters of stored answers in the query of a request."""

import re
from typing import Any

from fastapi import Request
from pydantic import ValidationError

from app.base.errors import InvalidRequest, refusal_of
from app.models.answer_file import AnswerFilter

METADATA_PARAMETER = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)
PAGE_PARAMETERS = frozenset({"after", "limit", "order"})
MOMENTS = ("created_after", "created_before")
TRUTHS = {"true": True, "false": False}


def parse_filter(request: Request) -> AnswerFilter:
    """Return the filter. Raises `InvalidRequest` for a parameter that there is none of."""
    fields: dict[str, Any] = {"metadata": {}}
    for name, value in request.query_params.multi_items():
        if match := METADATA_PARAMETER.fullmatch(name):
            fields["metadata"][match[1]] = value
        elif name in MOMENTS:
            fields[name] = int(value) if re.fullmatch("[0-9]{1,12}", value) else value
        elif name == "corrected":
            fields[name] = TRUTHS.get(value, value)
        elif name == "model":
            fields[name] = value
        elif name == "metadata" and not value:  # the client's None
            continue
        elif name not in PAGE_PARAMETERS:
            raise InvalidRequest(
                f"{name}: stored answers are not filtered by it; filter by model, "
                "metadata[key]=value, created_after, created_before or corrected.",
                param=name,
                code="unknown_parameter",
            )
    try:
        return AnswerFilter.model_validate(fields)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise refusal_of(fault | {"loc": ("query", *fault["loc"])}) from None
