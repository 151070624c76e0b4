"""The Responses API of the official client, on an engine that plays scripts."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel
from sqlalchemy import select

from app.models import StoredAnswer
from tests.support.answers import keep_answers
from tests.support.api import Api, Tenant
from tests.support.scripted_engine import scripted_engine

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("responses")
    with scripted_engine() as url:
        api = Api(f"sqlite:///{folder / 'falqon.db'}", folder, engine_url=url)
        yield api
        api.stop()


@pytest.fixture
def tenant(api: Api) -> Iterator[Tenant]:
    tenant = Tenant(api)
    keep_answers(tenant)
    yield tenant
    tenant.http.close()


def ask(tenant: Tenant, input: Any, **fields: Any) -> Response:
    answer = tenant.client.responses.create(model=tenant.base_model, input=input, **fields)
    assert isinstance(answer, Response)
    return answer


def post(tenant: Tenant, **body: Any) -> httpx.Response:
    question = {"model": tenant.base_model, "input": "Hi"} | body
    return tenant.http.post("/v1/responses", json=question)


def test_a_text_is_answered_and_goes_on(tenant: Tenant) -> None:
    first = ask(tenant, "Hi", instructions="Be brief.", metadata={"team": "red"})
    assert (first.output_text, first.status) == ("Hi 2", "completed")
    assert first.usage is not None
    assert (first.usage.input_tokens, first.usage.total_tokens) == (5, 7)
    again = ask(tenant, "And?", previous_response_id=first.id)
    assert again.output_text == "And? 3", "earlier instructions do not go on"
    kept = tenant.client.responses.retrieve(first.id)
    assert (kept.output_text, kept.metadata) == ("Hi 2", {"team": "red"})
    assert list(tenant.client.chat.completions.list()) == [], "of another kind"
    tenant.client.responses.delete(first.id)
    for call in (
        lambda: tenant.client.responses.retrieve(first.id),
        lambda: tenant.client.chat.completions.retrieve(again.id),
    ):
        with pytest.raises(openai.NotFoundError):
            call()
    with pytest.raises(openai.BadRequestError) as caught:
        ask(tenant, "And?", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"


def test_a_response_is_stored_unless_it_or_its_project_says_otherwise(
    api: Api, tenant: Tenant
) -> None:
    quiet = ask(tenant, "Hi", store=False)
    other = Tenant(api)
    answer = post(other, store=True)
    assert answer.headers["x-falqon-ignored"] == "store"
    for owner, id_ in ((tenant, quiet.id), (other, answer.json()["id"])):
        with pytest.raises(openai.NotFoundError):
            owner.client.responses.retrieve(id_)
    stranger_s = ask(tenant, "Hi").id
    keep_answers(other)
    refused = post(other, previous_response_id=stranger_s)
    assert refused.json()["error"]["code"] == "previous_response_not_found"
    other.http.close()


def test_the_metadata_of_a_stored_response_are_redacted_whatever_their_names(
    tenant: Tenant,
) -> None:
    keep_answers(tenant, redact=["(?i)ann@[a-z.]+"])
    field = {"metadata": {"type": "ann@schema"}}
    tool = WEATHER | {"parameters": {"type": "object", "properties": field}}
    first = ask(tenant, "Hi", metadata={"name": "Ann@example.com"}, tools=[tool])
    assert first.metadata == {"name": "Ann@example.com"}
    kept = tenant.client.responses.retrieve(first.id)
    assert kept.metadata == {"name": "[redacted]"}
    assert kept.tools[0].parameters["properties"] == field, "a schema says what an object is"
    with tenant.api.database.read() as session:
        own = select(StoredAnswer.document).where(StoredAnswer.project_id == tenant.project_id)
        assert "Ann@" not in session.scalars(own).one()


def test_functions_are_called_and_their_results_read(tenant: Tenant) -> None:
    answer = ask(tenant, "call", tools=[WEATHER])
    text, *calls = answer.output
    assert answer.output_text == "Well."
    assert text.type == "message"
    assert [(each.name, each.arguments) for each in calls] == [
        ("weather", '{"city": "Bern"}'),
        ("weather", '{"city": "Rome"}'),
    ]
    results = [
        {"type": "function_call_output", "call_id": each.call_id, "output": "rain"}
        for each in calls
    ]
    turns = [{"role": "user", "content": "call"}, *answer.model_dump()["output"], *results]
    assert ask(tenant, turns, tools=[WEATHER]).output_text == "rain 4"
    went_on = ask(tenant, results, tools=[WEATHER], previous_response_id=answer.id)
    assert went_on.output_text == "rain 4"


@pytest.mark.parametrize("input", ["call", "think", "cut", "Hi"])
def test_a_stream_gives_the_same_response(tenant: Tenant, input: str) -> None:
    whole = ask(tenant, input, tools=[WEATHER])
    types = []
    client = tenant.client
    with client.responses.stream(model=tenant.base_model, input=input, tools=[WEATHER]) as stream:
        for event in stream:
            types.append(event.type)
            if event.type in ("response.completed", "response.incomplete"):
                final = event.response
    assert types[:2] == ["response.created", "response.in_progress"]
    assert types[-1] == ("response.incomplete" if input == "cut" else "response.completed")
    unnamed = {"id": True, "call_id": True}
    items = [[each.model_dump(exclude=unnamed) for each in both.output] for both in (whole, final)]
    for both in items:
        for item in both:
            item.pop("parsed_arguments", None)
            for part in item.get("content") or ():
                part.pop("parsed", None)
    assert items[0] == items[1]
    assert final.usage == whole.usage
    assert (final.status, final.incomplete_details) == (whole.status, whole.incomplete_details)
    kept = client.responses.retrieve(final.id)
    assert [item.type for item in kept.output] == [item.type for item in final.output]


@pytest.mark.parametrize(("input", "kinds"), [("cut thoughts", ["reasoning"]), ("cut at once", [])])
def test_a_response_that_is_cut_before_its_text_is_incomplete(
    tenant: Tenant, input: str, kinds: list[str]
) -> None:
    whole = ask(tenant, input)
    *_, last = tenant.client.responses.create(model=tenant.base_model, input=input, stream=True)
    assert last.type == "response.incomplete"
    assert [item.type for item in last.response.output] == kinds
    kept = tenant.client.responses.retrieve(last.response.id)
    for response in (whole, last.response, kept):
        assert response.incomplete_details is not None
        details = (response.status, response.incomplete_details.reason)
        assert details == ("incomplete", "max_output_tokens")


def test_events_are_numbered_and_an_error_is_the_last(tenant: Tenant) -> None:
    stream = tenant.client.responses.create(model=tenant.base_model, input="break", stream=True)
    events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert (events[-1].type, events[-1].code) == ("error", "engine_failed")
    with pytest.raises(openai.NotFoundError):
        tenant.client.responses.retrieve(events[0].response.id)


class Answer(BaseModel):
    name: str


def test_structured_output_reaches_the_engine_as_a_schema(tenant: Tenant) -> None:
    parse = tenant.client.responses.parse
    parsed = parse(model=tenant.base_model, input="schema", text_format=Answer)
    assert parsed.output_parsed == Answer(name="Answer")
    schema = {"type": "json_schema", "name": "a", "schema": {"$ref": "#/b"}}
    with pytest.raises(openai.BadRequestError) as caught:
        ask(tenant, "Hi", text={"format": schema})
    assert caught.value.code == "invalid_schema"
    assert str(caught.value.param).startswith("text.format")


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"background": True}, "background", "unsupported_parameter"),
        ({"conversation": "conv_a"}, "conversation", "unsupported_parameter"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "unsupported_tool"),
        ({"input": [{"type": "item_reference", "id": "a"}]}, "input.0", "unsupported_item"),
        ({"input": []}, "input", "invalid_value"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "a"}]}]},
            "input",
            "vision_not_supported",
        ),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"previous_response_id": "resp_x"}, "previous_response_id", "previous_response_not_found"),
        ({"metadata": {"a": "b" * 513}}, "metadata.a", "invalid_value"),
    ],
)
def test_what_is_not_served_is_refused_by_name(
    tenant: Tenant, body: dict[str, Any], param: str, code: str
) -> None:
    answer = post(tenant, **body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"]) == (param, code)


def test_harmless_fields_are_named_in_a_header(tenant: Tenant) -> None:
    answer = post(
        tenant,
        truncation="auto",
        include=["reasoning.encrypted_content"],
        text={"verbosity": "low"},
        service_tier="flex",
        background=False,
        top_k=3,
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-falqon-ignored"] == "verbosity, include, truncation"
