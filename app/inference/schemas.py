"""Requests for inference. A field that engines would ignore is refused with its name; the rest is
passed to the engine unchanged, or as `translation` rewrites it for that engine.
"""

import json
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    field_serializer,
    model_validator,
)

from app.base.errors import InvalidRequest
from app.inference import messages
from app.inference.sampling import LEAST_TOP_P, OWN_FIELDS, EngineSampling, seed_for_engine
from app.inference.structure import (
    check_parts,
    check_response_format,
    check_tool_calls,
    check_tools,
)
from app.models.answer_file import Metadata
from app.models.json_schema_limits import SchemaLimits

# OpenAI's parameters that no engine here supports, each with the alternative.
UNSUPPORTED_FIELDS = {
    "audio": "models here answer with text",
    "modalities": "models here answer with text",
    "web_search_options": "models here have no input beyond the request",
    "best_of": "send n",
    "suffix": "leave it out",
}
# Values that OpenAI's client sends although they mean the same as leaving the field out.
IGNORED_VALUES: dict[str, JsonValue] = {"modalities": ["text"], "best_of": 1}
# Hints on length and speed, which no engine here takes; a header of the answer names them.
IGNORED_FIELDS = ("prediction", "verbosity")
LABEL_FIELDS = frozenset(
    {
        "user",
        "metadata",
        "safety_identifier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "service_tier",
        "store",
        *IGNORED_FIELDS,
    }
)
TRANSLATED_FIELDS = frozenset({"stream_options", "functions", "function_call"})
MAX_ANSWERS = 128
MAX_PROMPTS = 64
MAX_STOPS = 4
MAX_ANSWERS_OF_ALL_PROMPTS = 512
COMPLETION_TOKENS = 16  # OpenAI's default for completions


def _stop(value: Any) -> Any:
    """Refuse what is neither form in one sentence, with the field as the user names it."""
    if isinstance(value, str) or value is None:
        return value
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("write a text, or a list of texts")
    if len(value) > MAX_STOPS:
        raise ValueError(f"at most {MAX_STOPS} texts")
    return value


def _text_or_parts(value: Any) -> Any:
    if isinstance(value, str) or value is None:
        return value
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("write a text, or a list of parts")
    return value


def _prompt(value: Any) -> Any:
    return check_prompt(value, MAX_PROMPTS)


def check_prompt(value: Any, most: int) -> Any:
    """Refuse a prompt that is neither text nor tokens, before each of four forms reports its own
    error.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise ValueError("write a text, a list of token ids, or a list of one of these")
    if _is_tokens(value):
        return value
    if len(value) > most:
        raise ValueError(f"at most {most} prompts in one request")
    if all(isinstance(each, str) for each in value):
        return value
    if all(isinstance(each, list) and each and _is_tokens(each) for each in value):
        return value
    raise ValueError("write a text, a list of token ids, or a list of one of these")


def _is_tokens(value: list[Any]) -> bool:
    if set(map(type, value)) - {int}:
        return False
    return not value or (min(value) >= 0 and max(value) < 2**31)


def _check_token_ids(biases: dict[str, float]) -> dict[str, float]:
    for name in biases:
        if not re.fullmatch("[0-9]{1,10}", name):
            raise ValueError(
                f"'{name[:40]}' is no token; a key is the number of a token in the model's "
                'tokenizer, as in {"15496": 1}'
            )
    return biases


Stop = Annotated[str | list[str], BeforeValidator(_stop)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Tokens = Annotated[list[int], Field(fail_fast=True)]
Prompts = Annotated[list[Tokens], Field(fail_fast=True)]
AnyPrompt = str | Texts | Tokens | Prompts
Prompt = Annotated[AnyPrompt, BeforeValidator(_prompt)]
Content = Annotated[str | list[dict[str, JsonValue]], BeforeValidator(_text_or_parts)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: Annotated[bool, Field(description="nothing is added here")] = False


class InferenceRequest(EngineSampling):
    """Fields shared by both kinds of requests."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompt_field: ClassVar[str] = "messages"  # field with the model's input
    engine_path: ClassVar[str] = "/v1/chat/completions"

    model: Annotated[str, Field(min_length=1, max_length=512)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    n: Annotated[int | None, Field(ge=1, le=MAX_ANSWERS)] = None
    seed: Annotated[int | None, Field(ge=-(2**63), lt=2**63)] = None
    stop: Stop | None = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    logit_bias: Annotated[dict[str, float], AfterValidator(_check_token_ids)] | None = None
    user: Annotated[str | None, Field(description="stays with one model of an alias")] = None
    store: Annotated[
        bool | None, Field(description="keep a chat completion, in a project that stores answers")
    ] = None
    service_tier: Annotated[str | None, Field(description="not used here")] = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name in UNSUPPORTED_FIELDS.keys() & body.keys():
            value = body[name]
            if value is not None and value != IGNORED_VALUES.get(name):
                raise InvalidRequest(
                    f"{name}: not supported here; {UNSUPPORTED_FIELDS[name]}.",
                    param=name,
                    code="unsupported_parameter",
                )
        return {name: value for name, value in body.items() if name not in UNSUPPORTED_FIELDS}

    @property
    def wants_usage(self) -> bool:
        """Return True if a stream ends with the usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def sticky_key(self) -> str | None:
        """Return the user, whose requests stay with one model where an alias has several."""
        return self.user

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        """Return the fields that were sent and have no effect."""
        return ()

    @property
    def own_fields(self) -> frozenset[str]:
        """Return the fields of this request that not every engine has."""
        return frozenset(name for name in OWN_FIELDS if getattr(self, name) is not None)

    def engine_fields(self) -> dict[str, Any]:
        """Return the fields for the engine: everything but labels and absent fields. Its streams
        report the usage, which counts against the API key.
        """
        fields = self.model_dump(
            mode="json",
            exclude_unset=True,
            exclude_none=True,
            exclude=set(LABEL_FIELDS | TRANSLATED_FIELDS),
        )
        if self.stream:
            fields["stream_options"] = {"include_usage": True}
        if self.seed is not None:
            fields["seed"] = seed_for_engine(self.seed)
        if self.top_p == 0:
            fields["top_p"] = LEAST_TOP_P
        return fields

    def for_engine(self) -> bytes:
        """Return the request in the form that every engine reads."""
        return json.dumps(self.engine_fields()).encode()


class RequestMessage(BaseModel):
    """Turn of the chat, with the fields that the client's own answers carry when they are sent
    back.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content | None = None
    name: str | None = None
    tool_calls: list[dict[str, JsonValue]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    annotations: list[dict[str, JsonValue]] | None = None

    @field_serializer("role")
    def _as_trained(self, role: str) -> str:
        """Replace the developer role, which templates lack; as in training, its words become the
        system's.
        """
        return "system" if role == "developer" else role


class ChatCompletionRequest(InferenceRequest):
    messages: Annotated[list[RequestMessage], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    # Before `tools`, which are made of them: of two errors the first is told.
    functions: Annotated[
        list[dict[str, JsonValue]] | None, Field(description="the older form of tools")
    ] = None
    tools: list[dict[str, JsonValue]] | None = None
    tool_choice: JsonValue = None
    parallel_tool_calls: bool | None = None
    function_call: Annotated[JsonValue, Field(description="the older form of tool_choice")] = None
    response_format: dict[str, JsonValue] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    reasoning_effort: str | None = None
    chat_template_kwargs: Annotated[
        dict[str, JsonValue] | None, Field(description="handed to the model's chat template")
    ] = None
    prediction: Annotated[
        dict[str, JsonValue] | None, Field(description="not used here; it only saves time")
    ] = None
    verbosity: Annotated[
        Literal["low", "medium", "high"] | None,
        Field(description="not used here; say in the messages how long answers shall be"),
    ] = None
    metadata: Annotated[Metadata | None, Field(description="kept with a stored answer")] = None
    safety_identifier: Annotated[str | None, Field(description="the newer form of user")] = None
    prompt_cache_key: Annotated[str | None, Field(description="a label; not used here")] = None
    prompt_cache_retention: Annotated[str | None, Field(description="not used here")] = None

    @model_validator(mode="before")
    @classmethod
    def _read_as_training_does(cls, body: Any) -> Any:
        return messages.normalise(_shaped(body)) if isinstance(body, dict) else body

    @model_validator(mode="after")
    def _check_structure(self) -> Self:
        """Refuse a structure that would have an engine fail, or compute without end, with its
        place.
        """
        limits = SchemaLimits()
        check_response_format(self.response_format, limits)
        check_tools(self.tools, limits, is_legacy=self.is_legacy)
        for i, message in enumerate(self.messages):
            check_parts(message.content, f"messages.{i}.content")
            check_tool_calls(message.tool_calls, f"messages.{i}.tool_calls")
        return self

    @property
    def ignored_fields(self) -> tuple[str, ...]:
        return tuple(name for name in IGNORED_FIELDS if getattr(self, name) is not None)

    @property
    def sticky_key(self) -> str | None:
        return self.safety_identifier or self.user

    @property
    def is_legacy(self) -> bool:
        """Return True if calls are written, and read, in the form that `tools` replaced."""
        return self.functions is not None


def _shaped(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body with vLLM's `structured_outputs` as the `response_format` that it is."""
    outputs = body.get("structured_outputs")
    if outputs is None:
        return {name: value for name, value in body.items() if name != "structured_outputs"}
    if (
        not isinstance(outputs, dict)
        or not isinstance(outputs.get("json"), dict)
        or len(outputs) > 1
    ):
        raise InvalidRequest(
            'structured_outputs: only {"json": SCHEMA} is supported here.',
            param="structured_outputs",
            code="unsupported_parameter",
        )
    shape = {"name": "structured_outputs", "schema": outputs["json"]}
    others = {name: value for name, value in body.items() if name != "structured_outputs"}
    return {"response_format": {"type": "json_schema", "json_schema": shape}} | others


class CompletionRequest(InferenceRequest):
    prompt_field = "prompt"
    engine_path = "/v1/completions"

    prompt: Prompt
    max_tokens: Annotated[
        int | None, Field(ge=0, description=f"{COMPLETION_TOKENS} where left out")
    ] = None
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None
    echo: bool | None = None

    @model_validator(mode="after")
    def _write_something(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 only with echo")
        if len(self.prompts) * (self.n or 1) > MAX_ANSWERS_OF_ALL_PROMPTS:
            raise ValueError(
                f"n: at most {MAX_ANSWERS_OF_ALL_PROMPTS} answers to all prompts together"
            )
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Return the list of prompts, also if there is only one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt

    def engine_fields(self) -> dict[str, Any]:
        fields = super().engine_fields()
        if self.max_tokens is None:
            fields["max_tokens"] = COMPLETION_TOKENS
        if not self.echo:
            fields.pop("echo", None)
        return fields
