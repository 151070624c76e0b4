"""Strict JSON for every request: refuse JSON that parsers read differently (duplicate keys, NaN),
and text that no database stores (NUL).
"""

import re
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from app.base.errors import InvalidRequest
from falqon_core.records.jsonl import BadRecord, TooManyValues, decode_line, parse_line

MAX_BODY_VALUES = 20_000  # the largest list of a request is that of an upload's 10,000 parts
PARSED_AT_ONCE_BYTES = 2**14  # parsing this takes less time than waiting for a thread


class StrictRequest(Request):
    """Request whose body follows the rules for a record of a file: no key twice, no NaN, no NUL, no
    half characters, not too deep.
    """

    max_values = MAX_BODY_VALUES
    counts_token_ids = True

    async def json(self) -> Any:
        body = await self.body()
        try:
            if len(body) <= PARSED_AT_ONCE_BYTES:
                return self._parse(body)
            return await run_in_threadpool(self._parse, body)
        except BadRecord as error:
            refusal = self._refusal(error)
            # FastAPI lets only this kind pass out of body parsing.
            raise HTTPException(refusal.status) from refusal

    def _parse(self, body: bytes) -> Any:
        text = decode_line(body, 1)
        return parse_line(text, 1, self.max_values, counts_token_ids=self.counts_token_ids)

    def _refusal(self, error: BadRecord) -> InvalidRequest:
        fault = error.error
        if isinstance(error, TooManyValues):
            besides = "" if self.counts_token_ids else " besides token ids"
            return InvalidRequest(
                f"The body holds too many values, the limit is {self.max_values}{besides}.",
                code="too_many_values",
            )
        if param := re.sub(r"\[(\d+)\]", r".\1", fault.field):
            return InvalidRequest(f"{param}: {fault.message}; {fault.advice}.", param=param)
        return InvalidRequest(f"The body is not valid JSON: {fault.message}.", code="invalid_json")


class TokenRequest(StrictRequest):
    """Request that may hold lists of token ids, as many as its bytes allow."""

    counts_token_ids = False


def refuse_nul(request: Request) -> None:
    for name, value in (*request.path_params.items(), *request.query_params.multi_items()):
        if "\0" in name or "\0" in str(value):
            raise InvalidRequest(
                f"{name}: a NUL character, which names must not contain.", param=name
            )
