"""Whatever a stranger sends, four times as much of it takes four times as long, and never sixteen.

Each entry is measured in CPU time of this process, at one size and at four times that size. The
least of each counts, and what a busy machine added is measured away, in turns: where the work is
quadratic, no number of rounds brings the two nearer.
"""

import gc
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from app.models import Scope
from falqon_core.data.duplicates import Fingerprints
from falqon_core.data.sequences import encode
from falqon_core.importers.tiny import build_tiny
from falqon_core.records.jsonl import BadRecord
from falqon_core.records.line_parser import parse_record
from tests.support.api import Api, Tenant

FIRST = 3  # times that the smaller one is measured before the two are compared
ROUNDS = 25  # before it fails
MAY_GROW = 9  # four times as much: 4 where the work is linear, 16 where it is quadratic
SHORTEST = 0.005  # seconds; less is not measured well
MIB = 2**20
Make = Callable[[int], bytes]


def cpu_seconds(function: Callable[[bytes], object], content: bytes) -> float:
    """Return the CPU time that a call takes, the collection of garbage aside."""
    gc.disable()
    started = time.process_time()
    function(content)
    duration = time.process_time() - started
    gc.enable()
    return duration


def assert_grows_like_its_size(send: Callable[[bytes], object], make: Make, size: int) -> None:
    small = make(size)
    large = make(4 * size)
    short = min(cpu_seconds(send, small) for _ in range(FIRST))
    long = math.inf
    for _ in range(ROUNDS):
        long = min(long, cpu_seconds(send, large))
        if long < MAY_GROW * max(short, SHORTEST):
            return
        short = min(short, cpu_seconds(send, small))
    pytest.fail(f"{short:.4f} s, and {long:.4f} s for four times as much")


def joined(head: bytes, part: Callable[[int], bytes], tail: bytes) -> Make:
    return lambda size: head + b",".join(map(part, range(size))) + tail


def message(role: str) -> bytes:
    return json.dumps({"role": role, "content": "Well?"}).encode()


def called(number: int, text: bytes = b"lamp") -> bytes:
    function = b'{"name": "price", "arguments": "{\\"item\\": \\"%b\\"}"}' % text
    return (
        b'{"role": "assistant", "tool_calls": [{"id": "%d", "type": "function", "function": %b}]}'
        % (number, function)
    )


def answered(number: int) -> bytes:
    return b'{"role": "tool", "content": "5", "tool_call_id": "%d"}' % number


ANSWER = message("assistant")
CALLED_BARE = b'{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}'
ANSWERED_BARE = b'{"role": "tool", "name": "f", "content": "5"}'
# What one line may hold, and how many of it.
LINES: dict[str, tuple[Make, int]] = {
    "keys": (joined(b'{"text": "a", ', lambda i: b'"k%d": 1' % i, b"}"), 5_000),
    "keys of which the last stands twice": (
        joined(b"{", lambda i: b'"k%d": 1' % i, b', "k1": 1}'),
        5_000,
    ),
    "keys past the limit": (joined(b"{", lambda i: b'"k%d": 1' % i, b', "k1": 1}'), 40_000),
    "values": (joined(b'{"text": [', lambda i: b"1", b"]}"), 24_000),
    "values past the limit": (joined(b'{"text": [', lambda i: b"1", b"]}"), MIB // 4),
    "brackets": (lambda size: b'{"text": ' + b"[" * size, MIB),
    "brackets that close again": (
        joined(b'{"text": [', lambda i: b"[" * 900 + b"]" * 900, b"]}"),
        500,
    ),
    "objects": (lambda size: b'{"text": ' * size + b"1" + b"}" * size, MIB // 10),
    "escapes": (lambda size: b'{"text": "' + b"\\u00e9" * size + b'"}', MIB // 4),
    "quotes in a text without an end": (lambda size: b'{"text": "' + b'[,\\"' * size, MIB // 2),
    "spaces": (lambda size: b" " * size + b'{"text": "a"}' + b" " * size, MIB // 4),
    "digits": (lambda size: b'{"text": ' + b"1" * size + b".5}", MIB),
    "numbers": (joined(b'{"text": [', lambda i: b"1" * 4000, b"]}"), 100),
    "bytes before one that is no UTF-8": (lambda size: b'{"text": "' + b"a" * size + b"\xff", MIB),
    "messages": (joined(b'{"messages": [', lambda i: ANSWER, b"]}"), 1_500),
    "messages that are none": (joined(b'{"messages": [', lambda i: b"1", b"]}"), 24_000),
    "messages of which the last is none": (
        joined(b'{"messages": [', lambda i: ANSWER, b", 1]}"),
        1_500,
    ),
    "tools": (
        joined(b'{"messages": [' + ANSWER + b'], "tools": [', lambda i: b'{"a": [1, 2]}', b"]}"),
        1_500,
    ),
    "calls and their answers": (
        joined(
            b'{"messages": [', lambda i: called(i) + b", " + answered(i), b", " + ANSWER + b"]}"
        ),
        700,
    ),
    "arguments": (lambda size: b'{"messages": [' + called(1, b"x" * size) + b"]}", MIB),
    "fields that train nothing": (
        joined(b'{"messages": [' + ANSWER + b"], ", lambda i: b'"k%d": 1' % i, b"}"),
        5_000,
    ),
    "text parts": (
        joined(
            b'{"messages": [{"role": "assistant", "content": [',
            lambda i: b'{"type": "text", "text": "a"}',
            b"]}]}",
        ),
        5_000,
    ),
    "functions and their answers": (
        joined(
            b'{"messages": [',
            lambda i: (
                b'{"role": "assistant", "function_call": {"name": "f", "arguments": {"a": 1}}}, '
                b'{"role": "function", "name": "f", "content": ""}'
            ),
            b", " + ANSWER + b"]}",
        ),
        700,
    ),
    "a pair of chats": (
        lambda size: (
            b'{"prompt": [%b], "chosen": [%b], "rejected": [%b]}'
            % ((b", ".join([message("user")] * size),) * 3)
        ),
        1_500,
    ),
    "calls without ids before their answers": (
        lambda size: (
            b'{"messages": ['
            + b", ".join([CALLED_BARE] * size + [ANSWERED_BARE] * size + [ANSWER])
            + b"]}"
        ),
        700,
    ),
    "system messages without text": (
        joined(b'{"messages": [', lambda i: b'{"role": "system", "content": ""}', b", 1]}"),
        5_000,
    ),
    "messages as JSON in a text": (
        lambda size: json.dumps(
            {"messages": (b"[" + b",".join([ANSWER] * size) + b"]").decode()}
        ).encode(),
        1_500,
    ),
    "a history of Alpaca": (
        joined(b'{"instruction": "a", "output": "b", "history": [', lambda i: b'["a", "b"]', b"]}"),
        1_500,
    ),
    "turns of ShareGPT": (
        joined(b'{"conversations": [', lambda i: b'{"from": "gpt", "value": "a"}', b"]}"),
        1_500,
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line(name: str) -> None:
    make, size = LINES[name]
    assert_grows_like_its_size(read_line, make, size)


def read_line(raw: bytes) -> None:
    with suppress(BadRecord):
        parse_record(raw)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """One database is enough: nothing here comes as far."""
    folder: Path = tmp_path_factory.mktemp("growth")
    api = Api(f"sqlite:///{folder / 'falqon.db'}", folder)
    yield api
    api.stop()


@pytest.fixture(scope="module")
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    yield tenant
    tenant.http.close()


BODIES: dict[str, tuple[Make, int]] = {
    "keys": (joined(b"{", lambda i: b'"k%d": 1' % i, b"}"), 4_500),
    "keys of which the last stands twice": (
        joined(b"{", lambda i: b'"k%d": 1' % i, b', "k1": 1}'),
        4_500,
    ),
    "keys up to the limit of bytes": (joined(b"{", lambda i: b'"%x": 1' % i, b', "1": 1}'), 20_000),
    "values": (joined(b'{"model": [', lambda i: b"1", b"]}"), 4_500),
    "brackets": (lambda size: b"[" * size, MIB // 4),
    "escapes": (lambda size: b'{"model": "' + b"\\u00e9" * size + b'"}', MIB // 25),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body(tenant: Tenant, name: str) -> None:
    make, size = BODIES[name]
    assert_grows_like_its_size(lambda body: refused(send_json(tenant, body)), make, size)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/fine_tuning/jobs", "/v1/nothing"])
def test_the_parameters_of_an_address(tenant: Tenant, path: str) -> None:
    def ask(query: bytes) -> None:
        assert tenant.http.get(f"{path}?{query.decode()}").status_code in (200, 400, 404)

    assert_grows_like_its_size(
        ask, lambda size: b"&".join(b"k%d=%%41" % i for i in range(size)), 1_500
    )


def test_jobs_are_filtered_by_as_many_pairs_as_they_have(tenant: Tenant) -> None:
    answers = [
        tenant.http.get(
            "/v1/fine_tuning/jobs", params={f"metadata[k{i}]": "1" for i in range(count)}
        )
        for count in (16, 17, 1500)
    ]
    assert answers[0].status_code == 200
    for answer in answers[1:]:
        assert (
            refused(answer)["message"]
            == "metadata: a job has at most 16 pairs; filter by no more of them."
        )


FORMS: dict[str, tuple[Make, int]] = {
    "fields": (lambda size: part(b"colour", b"red") * size, 240),
    "one long field": (lambda size: part(b"colour", b"r" * size), MIB // 5),
    "one long name": (lambda size: part(b"n" * size, b"red"), MIB // 5),
    "lines that are nearly an end": (lambda size: part(b"colour", b"\r\n--" * size), MIB // 20),
    "headers": (lambda size: b"--x\r\n" + b"a: b\r\n" * size + b"\r\n", 10_000),
}


def part(name: bytes, content: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name, content)


@pytest.mark.parametrize("name", FORMS)
def test_a_form(tenant: Tenant, name: str) -> None:
    make, size = FORMS[name]
    headers = {"content-type": "multipart/form-data; boundary=x"}
    assert_grows_like_its_size(
        lambda form: refused(
            tenant.http.post("/v1/files", content=form + b"--x--\r\n", headers=headers)
        ),
        make,
        size,
    )


TEMPLATES = {
    "marked": "{% for m in messages %}{% if m.role == 'assistant' %}"
    "<|im_start|>a\n{% generation %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}\n{% else %}<|im_start|>u\n{{ m.content }}<|im_end|>\n{% endif %}"
    "{% endfor %}",
    "unmarked": "{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "without special tokens": "{% for m in messages %}"
    "{{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}",
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("growth-model") / "falqon-tiny"
    build_tiny(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_turns_of_a_chat(tokenizer: PreTrainedTokenizerBase, template: str) -> None:
    tokenizer.chat_template = TEMPLATES[template]
    make = joined(b'{"messages": [', lambda i: message("user") + b", " + ANSWER, b"]}")
    assert_grows_like_its_size(lambda raw: encode(parse_record(raw), tokenizer, 256), make, 500)  # type: ignore[arg-type]


TEXTS = {
    "letters": b"a",
    "spaces": b" ",
    "line ends": b"\\n",
    "words": b"word ",
    "emoji": "\N{GRINNING FACE}".encode(),
    "control tokens": b"<|im_end|>",
}


@pytest.mark.parametrize("name", TEXTS)
def test_the_text_of_a_record(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    def read(raw: bytes) -> None:
        record = parse_record(raw)
        encode(record, tokenizer, 256)  # type: ignore[arg-type]
        Fingerprints().add(1, record)

    assert_grows_like_its_size(
        read, lambda size: b'{"text": "' + TEXTS[name] * size + b'"}', 10_000
    )


def test_a_full_body_is_answered_quickly(tenant: Tenant) -> None:
    body = joined(b"{", lambda i: b'"%x":1' % i, b',"1":1}')(111_000)
    assert 0.9 * MIB < len(body) <= MIB
    started = time.process_time()
    error = refused(send_json(tenant, body))
    assert time.process_time() - started < 1
    assert error["code"] == "too_many_values"
    assert "too many values, the limit is 20000." in error["message"]


# Bodies of routes that take token ids, and the most of it that a mebibyte holds.
TOKEN_BODIES: dict[str, tuple[Make, int]] = {
    "tokens": (joined(b'{"model": "m", "prompt": [', lambda i: b"1", b"]}"), 130_000),
    "lists of tokens": (
        joined(b'{"model": "m", "prompt": [', lambda i: b"[%b1]" % (b"1," * 4095), b"]}"),
        16,
    ),
    "lists": (joined(b'{"model": "m", "prompt": [', lambda i: b"[1]", b"]}"), 65_000),
    "lists without an end": (lambda size: b'{"model": "m", "prompt": ' + b"[1," * size, 85_000),
}


@pytest.mark.parametrize("name", TOKEN_BODIES)
def test_a_body_with_token_ids(tenant: Tenant, name: str) -> None:
    make, size = TOKEN_BODIES[name]

    def send(body: bytes) -> None:
        assert len(body) <= MIB
        answer = send_json(tenant, body, "/v1/completions")
        assert answer.status_code in (400, 404), answer.text[:200]

    assert_grows_like_its_size(send, make, size)


def test_other_values_beside_token_ids_are_limited(tenant: Tenant) -> None:
    keys = joined(b'{"model": "m", "prompt": [1], ', lambda i: b'"%x":1' % i, b"}")(111_000)
    lists = joined(b'{"model": "m", "prompt": [', lambda i: b"[1]", b"]}")(20_000)
    for body in (keys, lists):
        started = time.process_time()
        error = refused(send_json(tenant, body, "/v1/completions"))
        assert time.process_time() - started < 1
        assert error["code"] == "too_many_values"
        assert "the limit is 20000 besides token ids" in error["message"]


def test_the_right_of_a_key_is_looked_at_before_the_body(api: Api) -> None:
    reader = Tenant(api, Scope.READ)
    assert send_json(reader, b"[" * MIB).status_code == 403
    reader.http.close()


def send_json(tenant: Tenant, body: bytes, path: str = "/v1/fine_tuning/jobs") -> httpx.Response:
    return tenant.http.post(path, content=body, headers={"content-type": "application/json"})


def refused(answer: httpx.Response) -> dict[str, str]:
    assert answer.status_code == 400, answer.text[:200]
    error: dict[str, str] = answer.json()["error"]
    return error
