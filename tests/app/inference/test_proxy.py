"""What becomes of an engine's stream on its way to the client."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest
from starlette.types import Message, Send

from app.inference import answer_stream, outbox
from app.inference.answer_stream import MAX_LINE_BYTES, AnswerStream
from app.inference.forms import AnswerForm
from app.inference.proxy import KEEPALIVE, Exchange, OpenAnswer, ProxyCallbacks, make_client
from app.inference.questions import split
from app.inference.service import EngineTarget
from app.inference.turns import EngineQueue
from app.inference.usage import Bill, UsageTally
from tests.support.local_server import QuietHandler, serving_by

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
ENGINE_USAGE = USAGE | {"prompt_tokens_details": {"cached_tokens": 2}}
DONE = b"data: [DONE]\n\n"


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


TEXT = event(id="1", choices=[{"text": 'an "usage": {} of data: \ud83d', "index": 0}])
LAST = event(id="1", choices=[], usage=ENGINE_USAGE, timings={"cache_n": 2})
OURS = event(id="1", choices=[], usage=USAGE)


class Tokens(httpx.AsyncByteStream):
    """An engine's answer."""

    def __init__(self, parts: Sequence[bytes]) -> None:
        self._parts = parts
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            yield part
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        self.is_closed = True


class Relay:
    """A stream between an engine and a client, without either."""

    def __init__(self, parts: Sequence[bytes], *, wants_usage: bool = False) -> None:
        self.tokens = Tokens(parts)
        self.queue = EngineQueue(1)
        self.num_charged = 0
        self._wants_usage = wants_usage

    def to(self, send: Send) -> None:
        """Relay it to a client that does not go away by itself."""

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError

        asyncio.run(self._run(send, receive))

    def events(self) -> bytes:
        sent: list[bytes] = []

        async def send(message: Message) -> None:
            sent.append(message.get("body", b""))

        self.to(send)
        return b"".join(sent)

    async def _run(self, send: Send, receive: object) -> None:
        questions = split(b'{"prompt": "a"}')
        tally = UsageTally([5], 1)
        tally.add_sent(questions[0])
        calls = ProxyCallbacks(lambda: None, lambda: None)
        target = EngineTarget("http://127.0.0.1:1", "", None, 1, "p", is_private=False)
        exchange = Exchange(make_client(), target, self.queue, "/v1", calls, tally)
        opened = OpenAnswer(httpx.Response(200, stream=self.tokens), await self.queue.take("p"))
        bill = Bill(tally, self._charge, lambda *_: None)
        stream = AnswerStream(
            exchange, questions, opened, bill, AnswerForm(wants_usage=self._wants_usage)
        )
        stream.resources.push_async_callback(bill.settle)
        await stream({"type": "http"}, receive, send)  # type: ignore[arg-type]

    def _charge(self, num_tokens: int) -> None:
        self.num_charged += num_tokens


def test_who_goes_away_before_the_first_byte_ends_the_answer() -> None:
    relay = Relay([DONE])

    async def send(_message: Message) -> None:
        await asyncio.Event().wait()  # nobody reads

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    asyncio.run(relay._run(send, receive))
    assert relay.tokens.is_closed
    assert relay.queue.is_idle


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("wants_usage", [True, False])
def test_events_are_read_wherever_parts_end(end: bytes, size: int, wants_usage: bool) -> None:
    stream = (b": ping\n\n" + TEXT + TEXT + LAST + DONE).replace(b"\n", end)
    parts = [stream[i : i + size] for i in range(0, len(stream), size)]
    relay = Relay(parts, wants_usage=wants_usage)
    expected = b": ping\n\n" + TEXT + TEXT + (OURS if wants_usage else b"") + DONE
    assert relay.events() == expected
    assert relay.num_charged == 7


def test_usage_beside_a_text_is_an_event_of_its_own() -> None:
    last = event(id="1", choices=[{"text": "", "index": 0}], usage=ENGINE_USAGE)
    without = event(id="1", choices=[{"text": "", "index": 0}])
    assert Relay([last, DONE], wants_usage=True).events() == without + OURS + DONE
    assert Relay([last, DONE]).events() == without + DONE


def test_without_figures_of_the_engine_each_event_counts_as_a_token() -> None:
    relay = Relay([TEXT, TEXT, DONE])
    relay.events()
    assert relay.num_charged == 5 + 2


def test_an_error_of_the_engine_is_one_of_ours() -> None:
    failure = event(error={"code": 500, "message": "out of luck", "type": "server_error"})
    events = Relay([TEXT, failure, DONE]).events()
    assert events.startswith(TEXT)
    assert json.loads(events.removeprefix(TEXT).removeprefix(b"data: "))["error"] == {
        "message": "The engine has failed: out of luck",
        "type": "server_error",
        "param": None,
        "code": "engine_failed",
    }


@pytest.mark.parametrize("part", [b"data: " + b"x" * MAX_LINE_BYTES, b"data: [1]\n\n"])
def test_what_is_no_event_ends_the_stream(part: bytes) -> None:
    relay = Relay([TEXT, part, b"x" * 2**16, DONE])
    events = relay.events()
    assert b"engine_failed" in events
    assert not events.endswith(DONE)
    assert relay.tokens.is_closed


class _Healthy(QuietHandler):
    def do_GET(self) -> None:
        self.send(200)


def _reloads(address: str) -> int:
    """Return how often a broken connection to the engine has it loaded again."""
    reloads: list[None] = []

    async def give_up() -> None:
        calls = ProxyCallbacks(lambda: None, lambda: reloads.append(None))
        target = EngineTarget(address, "", None, 1, "p", is_private=False)
        async with make_client() as client:
            exchange = Exchange(client, target, EngineQueue(1), "/v1", calls, UsageTally([5], 1))
            error = await exchange.give_up(httpx.RemoteProtocolError("disconnected"))
        assert error.code == "engine_unavailable"

    asyncio.run(give_up())
    return len(reloads)


def test_a_broken_connection_reloads_no_engine_that_still_answers() -> None:
    with serving_by(_Healthy) as url:
        assert _reloads(url) == 0
    assert _reloads(url) == 1, "nothing listens there now"


class _HangsUp(QuietHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.close_connection = True


def _ask(address: str, tally: UsageTally) -> type[Exception]:
    """Return how a question to the engine fails."""

    async def ask() -> type[Exception]:
        calls = ProxyCallbacks(lambda: None, lambda: None)
        target = EngineTarget(address, "", None, 1, "p", is_private=False)
        async with make_client() as client:
            exchange = Exchange(client, target, EngineQueue(1), "/v1", calls, tally)
            with pytest.raises(httpx.TransportError) as caught:
                await exchange.open(split(b'{"prompt": "a"}')[0], await exchange.take_turn())
        return caught.type

    return asyncio.run(ask())


def test_a_question_that_reaches_no_engine_counts_nothing_until_one_has_it() -> None:
    tally = UsageTally([5], 1)
    with serving_by(_HangsUp) as url:
        pass
    assert _ask(url, tally) is httpx.ConnectError
    assert tally.num_tokens == 0
    with serving_by(_HangsUp) as url:
        assert _ask(url, tally) is httpx.RemoteProtocolError
    assert tally.num_tokens == 5


def test_a_connection_to_an_engine_notices_a_machine_that_has_gone() -> None:
    async def options() -> list[int]:
        async with make_client() as client, client.stream("GET", f"{url}/health") as answer:
            connection = answer.extensions["network_stream"].get_extra_info("socket")
            return [connection.getsockopt(*option) for *option, _ in KEEPALIVE]

    with serving_by(_Healthy) as url:
        assert asyncio.run(options()) == [value for *_, value in KEEPALIVE]


def test_a_client_that_does_not_read_holds_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MAX_UNREAD_BYTES", 10 * len(TEXT))
    monkeypatch.setattr(answer_stream, "CLIENT_READ_SECONDS", 0.5)
    relay = Relay([TEXT] * 1000 + [DONE])
    are_idle = []

    async def send(message: Message) -> None:
        if message.get("body"):
            await asyncio.sleep(0.2)
            are_idle.append(relay.queue.is_idle)
            await asyncio.Event().wait()

    relay.to(send)
    assert are_idle == [True]
