"""`/v1/completions` as OpenAI's older clients and lm-eval's `local-completions` use it."""

from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from tests.support.api import Tenant

MODEL = "falqon-tiny"


@pytest.fixture
def client(tenant: Tenant) -> OpenAI:
    return tenant.client


@pytest.fixture(scope="module")
def vocabulary(tenant: Tenant) -> dict[str, int]:
    tokenizer = tenant.http.get(f"/v1/models/{MODEL}/artifacts/tokenizer.json").json()
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    return tokenizer["model"]["vocab"] | added


def test_sixteen_tokens_unless_more_are_asked_for(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="One, two", extra_body={"ignore_eos": True}
    )
    assert answer.usage.completion_tokens == 16
    assert answer.choices[0].finish_reason == "length"
    assert answer.id.startswith("cmpl-")


def test_logprobs_are_four_lists(client: OpenAI, vocabulary: dict[str, int]) -> None:
    question = {
        "model": MODEL,
        "prompt": "One, two",
        "max_tokens": 4,
        "temperature": 0,
        "logprobs": 2,
        "logit_bias": {str(vocabulary[letter]): 100 for letter in "abc"},
    }
    choice = client.completions.create(**question).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.text_offset == [0, 1, 2, 3]
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert top[token] == logprob
        assert 2 <= len(top) <= 3, "the two likeliest ones, and the one that was taken"
    events = list(
        client.completions.create(**question, stream=True, stream_options={"include_usage": True})
    )
    assert {event.id for event in events} == {events[0].id}
    assert events[0].id.startswith("cmpl-")
    chunks = [
        event.choices[0].logprobs for event in events if event.choices and event.choices[0].text
    ]
    assert [token for chunk in chunks for token in chunk.tokens] == logprobs.tokens
    assert [place for chunk in chunks for place in chunk.text_offset] == logprobs.text_offset


def test_a_prompt_of_tokens(client: OpenAI, vocabulary: dict[str, int]) -> None:
    ids = [vocabulary[letter] for letter in "abc"]
    question = {"model": MODEL, "max_tokens": 4, "temperature": 0}
    as_text = client.completions.create(prompt="abc", **question)
    answer = client.completions.create(prompt=ids, **question)
    if answer.usage.prompt_tokens == as_text.usage.prompt_tokens:  # no merge in between
        assert answer.choices[0].text == as_text.choices[0].text
    both = client.completions.create(prompt=[ids, ids[:1]], **question)
    assert both.choices[0].text == answer.choices[0].text
    assert len(both.choices) == 2


def test_likelihoods_as_lm_eval_asks_for_them(client: OpenAI, vocabulary: dict[str, int]) -> None:
    """The log probabilities of a prompt are those with which the model would have written it."""
    context = [vocabulary[token] for token in ("<|im_start|>", "a", "b")]
    written = client.completions.create(
        model=MODEL,
        prompt=context,
        max_tokens=5,
        temperature=0,
        logprobs=1,
        logit_bias={str(vocabulary[letter]): 100 for letter in "abc"},
    ).choices[0]
    continuation = [vocabulary[token] for token in written.logprobs.tokens]
    batch = [[*context, *continuation], context]
    answer = client.completions.create(
        model=MODEL, prompt=batch, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
    )
    first, second = sorted(answer.choices, key=lambda choice: choice.index)
    scores = first.logprobs.token_logprobs[len(context) : -1]
    assert scores == pytest.approx(written.logprobs.token_logprobs, abs=0.01)
    assert len(first.logprobs.top_logprobs) == len(batch[0]) + 1
    assert first.logprobs.token_logprobs[0] is None
    assert len(second.logprobs.tokens) == len(context) + 1
    assert answer.usage.prompt_tokens == len(batch[0]) + len(context)


def test_an_echo_without_an_answer(client: OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="One, two", max_tokens=0, logprobs=0, echo=True
    )
    choice = answer.choices[0]
    assert choice.text == "One, two"
    assert "".join(choice.logprobs.tokens) == "One, two"
    assert answer.usage.completion_tokens == 0
    assert answer.usage.total_tokens == len(choice.logprobs.tokens)


def test_an_end_within_the_prompt_has_its_probability(
    client: OpenAI, vocabulary: dict[str, int]
) -> None:
    ids = [vocabulary[token] for token in ("a", "<|im_end|>", "b")]
    answer = client.completions.create(model=MODEL, prompt=ids, max_tokens=0, logprobs=1, echo=True)
    _, end, after = answer.choices[0].logprobs.token_logprobs
    assert end < 0
    assert after < 0


@pytest.mark.parametrize(
    ("question", "param", "code"),
    [
        ({"prompt": "é", "echo": True, "logprobs": 1}, "echo", "echo_not_possible"),
        ({"prompt": "a", "echo": True, "stream": True}, "echo", "unsupported_parameter"),
        ({"prompt": "a", "echo": True, "n": 2}, "echo", "unsupported_parameter"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"prompt": 3}, "prompt", "invalid_value"),
        ({"prompt": [1, "a"]}, "prompt", "invalid_value"),
        ({"prompt": [[1], []]}, "prompt", "invalid_value"),
        ({"prompt": [2**30]}, "prompt", "invalid_value"),
        ({"prompt": [2**30], "echo": True}, "prompt", "invalid_value"),
        ({"prompt": ["a"] * 64, "n": 9}, "n", "invalid_value"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "unsupported_parameter"),
        ({"prompt": "word " * 5000}, "prompt", "context_length_exceeded"),
        (
            {"prompt": "word " * 5000, "echo": True, "logprobs": 1},
            "prompt",
            "context_length_exceeded",
        ),
    ],
)
def test_what_cannot_be_done_is_refused(
    client: OpenAI, question: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(BadRequestError) as raised:
        client.completions.create(model=MODEL, **question)
    assert (raised.value.param, raised.value.code) == (param, code)
