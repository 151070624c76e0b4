"""What models read and write counts against the key that asked."""

import time
from collections.abc import Iterator

import httpx
import pytest
from openai import RateLimitError

from app.models import Engine
from tests.support.api import Api, Tenant
from tests.support.valkey import Valkey
from tests.support.waiting import wait_for

PER_MINUTE = 600
MODEL = "falqon-tiny"
ENDLESS = {"0": -100, "1": -100, "2": -100}  # without the tokens that end an answer
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def limited(api: Api, tenant: Tenant, valkey: Valkey) -> Iterator[Tenant]:
    """A key of an API process that counts, and asks the engine of the other's worker."""
    tenant.client.completions.create(model=MODEL, prompt="One", max_tokens=1)  # has it loaded
    with api.database.read() as session:
        engine = session.get(Engine, (MODEL, 0))
    assert engine is not None
    relay = Api(
        api.settings.resolved_database_url,
        api.settings.data_dir,
        engine_url=engine.address,
        engine_key=engine.token,
        redis_url=valkey.settings.resolved_redis_url,
        tokens_per_minute=PER_MINUTE,
        answers_per_key=8,
    )
    tenant = Tenant(relay)
    yield tenant
    tenant.http.close()
    relay.stop()


def remaining(tenant: Tenant) -> int:
    """Ask what is left, with a question that takes nothing."""
    answer = tenant.http.post("/v1/completions", json={"model": "nothing", "prompt": "One"})
    assert answer.status_code in (404, 429)
    assert answer.headers["x-ratelimit-limit-tokens"] == str(PER_MINUTE)
    assert answer.headers["x-ratelimit-reset-tokens"].endswith("s")
    return int(answer.headers["x-ratelimit-remaining-tokens"])


def test_an_echo_counts_also_where_a_later_prompt_is_refused(limited: Tenant) -> None:
    prompts = ["One, two " * 40, "é"]
    question = {"model": MODEL, "prompt": prompts, "max_tokens": 0, "echo": True, "logprobs": 0}
    answer = limited.http.post("/v1/completions", json=question)
    assert answer.json()["error"]["code"] == "echo_not_possible"
    assert remaining(limited) < PER_MINUTE - 100


def test_answers_count_as_the_engine_says(limited: Tenant) -> None:
    question = {"model": MODEL, "messages": HELLO, "max_tokens": 64}
    started = time.monotonic()
    raw = limited.client.chat.completions.with_raw_response.create(**question)
    usage = raw.parse().usage
    assert usage is not None
    assert int(raw.headers["x-ratelimit-remaining-tokens"]) <= PER_MINUTE - usage.prompt_tokens
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last = limited.client.chat.completions.create(**question, **options)
    chunks = list(limited.client.chat.completions.create(**question, stream=True))
    assert all(chunk.choices for chunk in chunks), "nobody asked for the usage"
    at_most = usage.total_tokens + last.usage.total_tokens + usage.prompt_tokens + 64
    used = PER_MINUTE - remaining(limited)
    refilled = (time.monotonic() - started) * PER_MINUTE / 60
    assert at_most - 64 - refilled - 1 <= used <= at_most


def test_a_key_without_tokens_waits_and_others_do_not(limited: Tenant) -> None:
    question = {"model": MODEL, "prompt": "One " * 700, "max_tokens": 1}
    assert limited.client.completions.create(**question).usage.total_tokens > 2 * PER_MINUTE
    with pytest.raises(RateLimitError) as raised:
        limited.client.with_options(max_retries=0).completions.create(**question)
    assert (raised.value.code, raised.value.type) == ("rate_limit_exceeded", "rate_limit_error")
    headers = raised.value.response.headers
    assert headers["x-ratelimit-remaining-tokens"] == "0"
    assert 1 <= int(headers["retry-after"]) <= 300
    assert limited.http.get("/v1/models").status_code == 200
    colleague = Tenant(limited.api, project_id=limited.project_id)
    colleague.client.completions.create(model=MODEL, prompt="One", max_tokens=1)
    colleague.http.close()


def test_a_prompt_counts_when_it_is_asked(limited: Tenant) -> None:
    """Also where the client leaves before the answer."""
    long = "One " * 350
    question = {"model": MODEL, "max_tokens": 1900, "logit_bias": ENDLESS, "n": 64, "prompt": long}
    with pytest.raises(httpx.TimeoutException):
        limited.http.post("/v1/completions", json=question, timeout=1)
    wait_for(lambda: remaining(limited) < PER_MINUTE - 250, what="the prompt is counted")


def test_the_prompt_of_a_stream_that_is_broken_off_counts(limited: Tenant) -> None:
    question = {"model": MODEL, "max_tokens": 1000, "logit_bias": ENDLESS, "prompt": "One " * 350}
    stream = limited.client.completions.create(**question, stream=True)
    next(iter(stream))
    stream.close()
    wait_for(lambda: remaining(limited) < PER_MINUTE - 250, what="the prompt is counted")


def test_a_refused_question_takes_nothing(limited: Tenant) -> None:
    question = {"model": MODEL, "prompt": "One " * 3000}
    assert limited.http.post("/v1/completions", json=question).status_code == 400
    assert remaining(limited) == PER_MINUTE


def test_a_key_waits_for_so_many_answers_and_others_do_not(limited: Tenant) -> None:
    question = {"model": MODEL, "messages": HELLO, "max_tokens": 1900, "logit_bias": ENDLESS}
    client = limited.client.with_options(max_retries=0)
    stream = client.chat.completions.create(**question, n=8, stream=True)
    next(iter(stream))
    with pytest.raises(RateLimitError, match="may wait for 8 at once") as raised:
        client.completions.create(model=MODEL, prompt="One", max_tokens=1)
    assert raised.value.response.headers["retry-after"] == "1"
    colleague = Tenant(limited.api, project_id=limited.project_id)
    colleague.client.completions.create(model=MODEL, prompt="One", max_tokens=1)
    colleague.http.close()
    stream.close()

    def reason() -> str:
        question = {"model": MODEL, "prompt": "One", "max_tokens": 1}
        return limited.http.post("/v1/completions", json=question).text

    wait_for(lambda: "may wait" not in reason(), 5, "its answers have ended")


def test_an_answer_that_is_broken_off_counts(limited: Tenant) -> None:
    long = {"max_tokens": 3000, "logit_bias": {"0": -100, "1": -100, "2": -100}}
    stream = limited.client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, **long
    )
    for _, _chunk in zip(range(300), stream, strict=False):
        pass
    stream.close()
    wait_for(lambda: remaining(limited) < PER_MINUTE - 40, what="its events are counted")
