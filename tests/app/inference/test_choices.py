"""Requests of several prompts and choices: answered as each would be alone, and counted in full."""

from collections import defaultdict
from typing import Any

import pytest
from openai import OpenAI

from tests.support.api import Tenant

ENDLESS = {"0": -100, "1": -100, "2": -100}  # without the tokens that end an answer
QUESTION: dict[str, Any] = {"model": "falqon-tiny", "max_tokens": 6, "logit_bias": ENDLESS}
PROMPTS = ["One, two, three", "Hello"]
WITH_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def client(tenant: Tenant) -> OpenAI:
    return tenant.client


def streamed(client: OpenAI, **question: Any) -> tuple[list[str], Any]:
    """Return the texts of a stream by the number of their choice, and its usage."""
    texts: dict[int, str] = defaultdict(str)
    *chunks, last = client.completions.create(**QUESTION, **question, **WITH_USAGE)
    for chunk in chunks:
        assert chunk.id == last.id
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert not last.choices
    return [texts[index] for index in sorted(texts)], last.usage


def test_all_choices_and_prompts_are_counted(client: OpenAI) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    alone = client.chat.completions.create(**QUESTION, messages=messages).usage
    usage = client.chat.completions.create(**QUESTION, messages=messages, n=4).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (alone.prompt_tokens, 24)
    assert usage.total_tokens == usage.prompt_tokens + 24
    prompt_tokens = [
        client.completions.create(**QUESTION, prompt=prompt).usage.prompt_tokens
        for prompt in PROMPTS
    ]
    whole = client.completions.create(**QUESTION, prompt=PROMPTS, n=2).usage
    assert (whole.prompt_tokens, whole.completion_tokens) == (sum(prompt_tokens), 24)
    assert streamed(client, prompt=PROMPTS, n=2)[1] == whole


def test_each_is_answered_as_if_it_were_alone(client: OpenAI) -> None:
    seeds = (3, 4)
    alone = [
        client.completions.create(**QUESTION, prompt=prompt, seed=seed).choices[0].text
        for prompt in PROMPTS
        for seed in seeds
    ]
    whole = client.completions.create(**QUESTION, prompt=PROMPTS, n=2, seed=seeds[0]).choices
    assert [choice.index for choice in whole] == [0, 1, 2, 3]
    assert [choice.text for choice in whole] == alone
    assert streamed(client, prompt=PROMPTS, n=2, seed=seeds[0])[0] == alone


def test_a_prompt_that_is_too_long_is_named_wherever_it_stands(tenant: Tenant) -> None:
    prompts = ["Hello", "word " * 5000]
    for stream in (False, True):
        body = QUESTION | {"prompt": prompts, "stream": stream}
        answer = tenant.http.post("/v1/completions", json=body)
        assert "context_length_exceeded" in answer.text
