"""Strict JSON for every request: refuse JSON that parsers read differently (duplicate keys, NaN),
and text that no database stores (NUL).
"""

import re
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from app.base.errors import InvalidRequest
from falqon_core.records.jsonl import BadRecord, decode_line, parse_line

MAX_BODY_VALUES = 20_000  # the largest list of a request is that of an upload's 10,000 parts
PARSED_AT_ONCE_BYTES = 2**14  # parsing this takes less time than waiting for a thread


class StrictRequest(Request):
    """Request whose body follows the rules for a record of a file: no key twice, no NaN, no NUL, no
    half characters, not too deep.
    """

    max_values = MAX_BODY_VALUES

    async def json(self) -> Any:
        body = await self.body()
        try:
            if len(body) <= PARSED_AT_ONCE_BYTES:
                return _parse(body, self.max_values)
            return await run_in_threadpool(_parse, body, self.max_values)
        except BadRecord as error:
            refusal = _refusal(error)
            # FastAPI lets only this kind pass out of body parsing.
            raise HTTPException(refusal.status) from refusal


def _parse(body: bytes, max_values: int) -> Any:
    return parse_line(decode_line(body, 1), 1, max_values)


def refuse_nul(request: Request) -> None:
    for name, value in (*request.path_params.items(), *request.query_params.multi_items()):
        if "\0" in name or "\0" in str(value):
            raise InvalidRequest(
                f"{name}: a NUL character, which names must not contain.", param=name
            )


def _refusal(error: BadRecord) -> InvalidRequest:
    fault = error.error
    if param := re.sub(r"\[(\d+)\]", r".\1", fault.field):
        return InvalidRequest(f"{param}: {fault.message}; {fault.advice}.", param=param)
    return InvalidRequest(f"The body is not valid JSON: {fault.message}.", code="invalid_json")
