import pytest
from openai import NotFoundError, OpenAI

from tests.support.api import Tenant

MODEL = "falqon-tiny"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def client(tenant: Tenant) -> OpenAI:
    return tenant.client


def test_an_answer(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=8, temperature=0, seed=1, user="ann"
    )
    assert answer.model == MODEL
    assert answer.choices[0].finish_reason in ("length", "stop")
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 8


def test_a_stream_says_the_same_and_counts(client: OpenAI) -> None:
    question = {"model": MODEL, "messages": HELLO, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**question)
    chunks = list(
        client.chat.completions.create(
            **question, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_a_completion(client: OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="One, two", max_tokens=4)
    assert answer.object == "text_completion"


def test_several_answers_with_the_chances_of_their_tokens(client: OpenAI, tenant: Tenant) -> None:
    tokenizer = tenant.http.get(f"/v1/models/{MODEL}/artifacts/tokenizer.json").json()
    letters = [str(tokenizer["model"]["vocab"][letter]) for letter in "abc"]
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=2,
        n=2,
        logprobs=True,
        top_logprobs=3,
        # half a character, as any other token may be, has no text and no chances to tell of
        logit_bias=dict.fromkeys(letters, 100),
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    for choice in answer.choices:
        assert len(choice.logprobs.content) == 2
        for token in choice.logprobs.content:
            assert len(token.top_logprobs) == 3
            assert token.logprob <= 0


def test_an_answer_of_a_shape(client: OpenAI) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = client.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=64, response_format=shape
    )
    assert '"n"' in answer.choices[0].message.content


@pytest.mark.parametrize(
    ("question", "param", "code"),
    [
        ({"audio": {"voice": "a", "format": "wav"}}, "audio", "unsupported_parameter"),
        ({"verbosity": "loud"}, "verbosity", "invalid_value"),
        ({"min_tokens": 2}, "min_tokens", "unsupported_parameter"),
        ({"stop_token_ids": [2]}, "stop_token_ids", "unsupported_parameter"),
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs", "unsupported_parameter"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"stop": 3}, "stop", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content", "invalid_value"),
        (
            {"messages": [{"role": "function", "name": "f", "content": "3"}]},
            "messages.0",
            "invalid_value",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content",
            "vision_not_supported",
        ),
        (
            {"messages": [{"role": "user", "content": "a " * 9000}]},
            "messages",
            "context_length_exceeded",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_name(
    tenant: Tenant, question: dict[str, object], param: str, code: str
) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 1} | question
    answer = tenant.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_a_conversation_goes_on_with_what_the_client_was_given(client: OpenAI) -> None:
    question = {"model": MODEL, "max_tokens": 2, "temperature": 0}
    first = client.chat.completions.create(messages=HELLO, **question).choices[0].message
    turns = [{"role": "developer", "content": "Be brief."}, *HELLO, first.model_dump(), *HELLO]
    answer = client.chat.completions.create(messages=turns, **question)
    as_system = [{"role": "system", "content": "Be brief."}, *turns[1:]]
    expected = client.chat.completions.create(messages=as_system, **question)
    assert answer.choices[0].message.content == expected.choices[0].message.content
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens


@pytest.mark.parametrize(
    ("harmless", "ignored"),
    [
        ({"store": True, "service_tier": "default", "top_p": 0}, "store"),
        ({"prompt_cache_retention": "24h", "stream_options": {"include_usage": True}}, None),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, None),
        (
            {"verbosity": "low", "prediction": {"type": "content", "content": "a"}},
            "prediction, verbosity",
        ),
        ({"stream": True, "verbosity": "high"}, "verbosity"),
    ],
)
def test_harmless_parameters_mean_nothing(
    tenant: Tenant, harmless: dict[str, object], ignored: str | None
) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 1} | harmless
    answer = tenant.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers.get("x-falqon-ignored") == ignored


def test_an_answer_has_nothing_of_the_engine_s_own(tenant: Tenant) -> None:
    body = {"model": MODEL, "messages": HELLO, "max_tokens": 2}
    whole = tenant.http.post("/v1/chat/completions", json=body)
    streamed = tenant.http.post("/v1/chat/completions", json=body | {"stream": True})
    assert '"finish_reason"' in streamed.text
    for answer in (whole, streamed):
        assert "timings" not in answer.text
        assert "system_fingerprint" not in answer.text


def test_samplers_of_engines_pass_on(client: OpenAI) -> None:
    question = {"model": MODEL, "messages": HELLO, "max_tokens": 8}
    plain = client.chat.completions.create(**question, temperature=0)
    samplers = {"top_k": 1, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
    likeliest = client.chat.completions.create(**question, temperature=2, extra_body=samplers)
    assert likeliest.choices[0].message.content == plain.choices[0].message.content
    varied = client.chat.completions.create(
        **question, temperature=0, extra_body={"repetition_penalty": 10}
    )
    assert varied.choices[0].message.content != plain.choices[0].message.content


def test_a_negative_seed_is_one_seed(client: OpenAI) -> None:
    texts = {
        client.chat.completions.create(
            model=MODEL, messages=HELLO, max_tokens=8, temperature=2, seed=-1
        )
        .choices[0]
        .message.content
        for _ in range(3)
    }
    assert len(texts) == 1


def test_messages_as_training_reads_them(client: OpenAI) -> None:
    question = {"model": MODEL, "max_tokens": 1, "temperature": 0}
    old = [
        {"role": "developer", "content": ""},
        {"role": "user", "content": [{"type": "input_text", "text": "Add"}]},
        {"role": "assistant", "function_call": {"name": "add", "arguments": "{}"}, "weight": 0},
        {"role": "function", "name": "add", "content": "3"},
        {"role": "assistant", "content": "Three", "thinking": "Hm"},
        *HELLO,
    ]
    call = {"id": "call00000", "type": "function", "function": {"name": "add", "arguments": "{}"}}
    new = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "Add"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call00000", "content": "3"},
        {"role": "assistant", "content": "Three", "reasoning_content": "Hm"},
        *HELLO,
    ]
    answer = client.chat.completions.create(messages=old, **question)
    expected = client.chat.completions.create(messages=new, **question)
    assert answer.usage.prompt_tokens == expected.usage.prompt_tokens


def test_tokens_that_end_within_a_character_have_no_logprobs(
    client: OpenAI, tenant: Tenant
) -> None:
    tokenizer = tenant.http.get(f"/v1/models/{MODEL}/artifacts/tokenizer.json").json()
    first_byte = str(tokenizer["model"]["vocab"]["Ã"])
    answer = client.chat.completions.create(
        model=MODEL,
        messages=HELLO,
        max_tokens=2,
        logprobs=True,
        logit_bias={first_byte: 100},
    )
    assert answer.choices[0].logprobs.content == []


def test_an_alias(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="gpt-old", messages=HELLO, max_tokens=1)
    assert answer.model == MODEL


def test_a_model_that_does_not_exist(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as raised:
        client.chat.completions.create(model="ft:nothing", messages=HELLO)
    assert raised.value.code == "model_not_found"
