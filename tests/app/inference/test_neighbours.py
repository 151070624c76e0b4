"""Projects that share an engine neither break, delay nor observe one another."""

import pytest
from openai import OpenAI

from tests.support.api import Api, Tenant

MODEL = "falqon-tiny"
HELLO = [{"role": "user", "content": "Hello"}]
ENDLESS = {"0": -100, "1": -100, "2": -100}  # without the tokens that end an answer


@pytest.fixture
def neighbour(api: Api) -> OpenAI:
    return Tenant(api).client


def test_long_answers_beside_it_do_not_end_an_answer(tenant: Tenant, neighbour: OpenAI) -> None:
    question = {"model": MODEL, "messages": HELLO, "logit_bias": ENDLESS, "stream": True}
    long = neighbour.chat.completions.create(n=3, max_tokens=1900, **question)
    next(iter(long))
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = tenant.client.chat.completions.create(max_tokens=700, **options, **question)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage.completion_tokens == 700
    assert {chunk.choices[0].finish_reason for chunk in long if chunk.choices} == {None, "length"}
