import json

import pytest

from app.inference.usage import MAX_LINE_BYTES, UsageStream, num_tokens_of

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


TEXT = event(choices=[{"delta": {"content": 'an "usage": {} of data:'}}], usage=None)
LAST = event(choices=[], usage=USAGE)
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("is_hidden", [True, False])
def test_the_usage_is_read_wherever_parts_end(end: bytes, size: int, is_hidden: bool) -> None:
    stream = (TEXT + TEXT + LAST + DONE).replace(b"\n", end)
    usage = UsageStream(is_hidden=is_hidden)
    parts = [usage.pass_on(stream[i : i + size]) for i in range(0, len(stream), size)]
    assert usage.end() == b""
    data = [line for line in b"".join(parts).splitlines() if line]
    expected = [TEXT, TEXT, DONE] if is_hidden else [TEXT, TEXT, LAST, DONE]
    assert data == [line.strip() for line in expected]
    assert usage.take_tokens() == 7
    assert usage.take_tokens(is_over=True) == 0, "once"


def test_whole_lines_are_passed_on_at_once() -> None:
    usage = UsageStream(is_hidden=True)
    assert usage.pass_on(TEXT + TEXT[:9]) == TEXT
    assert usage.pass_on(TEXT[9:]) == TEXT
    assert usage.take_tokens() == 0
    assert usage.take_tokens(is_over=True) == 2, "an event each where the engine does not tell"


def test_usage_beside_an_answer_is_no_event_of_its_own() -> None:
    last = event(choices=[{"text": "", "finish_reason": "stop"}], usage=USAGE)
    usage = UsageStream(is_hidden=True)
    assert usage.pass_on(last) == last
    assert usage.take_tokens() == 7


def test_a_line_without_end_is_not_kept() -> None:
    usage = UsageStream(is_hidden=True)
    part = b"x" * 2**16
    passed_on = [usage.pass_on(part) for _ in range(MAX_LINE_BYTES // len(part) + 1)]
    assert b"".join(passed_on) == part * len(passed_on)
    assert usage.end() == b""


@pytest.mark.parametrize(
    ("answer", "num_tokens"),
    [
        (json.dumps({"usage": USAGE}).encode(), 7),
        (b'{"usage": {"total_tokens": -1}}', 0),
        (b'{"usage": {"total_tokens": 1' + b"0" * 400 + b"}}", 2**31),
        (b'{"usage": {"total_tokens": "7"}}', 0),
        (b'{"usage": null}', 0),
        (b"[]", 0),
        (b"\xff{", 0),
    ],
)
def test_the_usage_of_a_whole_answer(answer: bytes, num_tokens: int) -> None:
    assert num_tokens_of(answer) == num_tokens
