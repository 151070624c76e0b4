import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai
from openai._resource import AsyncAPIResource, SyncAPIResource

RESOURCES = ("files", "uploads", "models", "fine_tuning", "webhooks")
WAIT_SECONDS = 60


@dataclass
class Traveller:
    """One client on its way, and what others gave it to go with."""

    client: Any
    asynchronous: bool
    model: str  # a base model, with a slash in its name
    reading_key: str  # of the same project
    limited_key: str  # of one that may ask 60 times a minute and run no job
    other_projects: list[str]
    called: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.client = Recorded(self.client, "", self.called)


class Recorded:
    """A client, or a resource of one, that notes which of its methods are called."""

    def __init__(self, thing: Any, path: str, called: set[str]) -> None:
        self._thing = thing
        self._path = path
        self._called = called

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._thing, name)
        path = f"{self._path}.{name}".lstrip(".")
        if isinstance(attribute, SyncAPIResource | AsyncAPIResource):
            return Recorded(attribute, path, self._called)
        if inspect.ismethod(attribute):
            self._called.add(path)
        return attribute


def offered(client: Any) -> Iterator[str]:
    """Every method of the resources that this release has."""
    for name in RESOURCES:
        if hasattr(client, name):
            yield from _methods(getattr(client, name), name)


def _methods(resource: Any, path: str) -> Iterator[str]:
    for name in dir(type(resource)):
        if name.startswith(("_", "with_")):
            continue
        attribute = getattr(resource, name)
        if isinstance(attribute, SyncAPIResource | AsyncAPIResource):
            yield from _methods(attribute, f"{path}.{name}")
        elif inspect.ismethod(attribute):
            yield f"{path}.{name}"


async def done(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


async def each(items: Any) -> AsyncIterator[Any]:
    """The items of a list page by page, or of a stream, as they come."""
    if inspect.isawaitable(items) and not hasattr(items, "__aiter__"):
        items = await items
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def every(items: Any) -> list[Any]:
    return [item async for item in each(items)]


async def streamed(response: Any) -> bytes:
    if hasattr(response, "__aenter__"):
        async with response as opened:
            return b"".join([chunk async for chunk in opened.iter_bytes()])
    with response as opened:
        return b"".join(opened.iter_bytes())


async def refused(
    kind: type[openai.APIStatusError],
    code: str,
    call: Any,
    *arguments: Any,
    param: str | None = None,
    **options: Any,
) -> Any:
    """Expect the call to fail as this class of error, with everything that the client reads."""
    try:
        answer = await done(call(*arguments, **options))
    except openai.APIStatusError as caught:
        error = caught
    else:
        raise AssertionError(f"not refused but answered with {answer!r}")
    same((type(error), error.code, error.param), (kind, code, param), str(error))
    same(error.type, code if code == "insufficient_quota" else "invalid_request_error")
    assert (error.request_id or "").startswith("req_"), error.request_id
    assert str(error).startswith(f"Error code: {error.status_code} - "), error
    return error


async def until(look: Any, *statuses: str) -> Any:
    """Ask again and again until what comes has one of these statuses."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        item = await done(look())
        if item.status in statuses:
            return item
        assert time.monotonic() < deadline, f"still {item.status}: {item!r}"
        await asyncio.sleep(0.1)


def same(actual: Any, expected: Any, about: str = "") -> None:
    assert actual == expected, f"{about}\nseen:   {actual!r}\nwanted: {expected!r}"


def ids(items: Sequence[Any]) -> list[str]:
    return [item.id for item in items]
