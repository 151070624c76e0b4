"""What may be asked of a model. Fields are handed to the engine as they came; what engines would
ignore is refused with its name.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    field_serializer,
    model_validator,
)

from app.base.errors import InvalidRequest

# Of OpenAI's parameters, those that no engine here does; and what to do instead.
UNSUPPORTED = {
    "audio": "models here answer with text",
    "function_call": "send tool_choice",
    "functions": "send tools",
    "modalities": "models here answer with text",
    "prediction": "leave it out",
    "service_tier": "leave it out",
    "store": "answers are not kept here; leave it out",
    "verbosity": "leave it out",
    "web_search_options": "models here see what the request holds, and nothing else",
    "best_of": "send n",
    "echo": "leave it out",
    "suffix": "leave it out",
}
# What a client of OpenAI's sends although it means nothing else than leaving it out.
HARMLESS: dict[str, JsonValue] = {
    "store": False,
    "service_tier": "auto",
    "modalities": ["text"],
    "echo": False,
    "best_of": 1,
}
MEDIA = {
    "image_url": "vision_not_supported",
    "input_audio": "audio_not_supported",
    "file": "files_not_supported",
}
LABELS = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key"})

Stop = str | Annotated[list[str], Field(max_length=4)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class InferenceRequest(BaseModel):
    """What both kinds of questions have."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1, max_length=512)]
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1)] = None
    n: Annotated[int | None, Field(ge=1, le=8)] = None
    seed: int | None = None
    stop: Stop | None = None
    frequency_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    presence_penalty: Annotated[float | None, Field(ge=-2, le=2)] = None
    logit_bias: dict[str, float] | None = None
    user: Annotated[str | None, Field(description="a label; not used here")] = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name in UNSUPPORTED.keys() & body.keys():
            value = body[name]
            if value is not None and value != HARMLESS.get(name):
                raise InvalidRequest(
                    f"{name}: not supported here; {UNSUPPORTED[name]}.",
                    param=name,
                    code="unsupported_parameter",
                )
        return {name: value for name, value in body.items() if name not in UNSUPPORTED}

    @model_validator(mode="after")
    def _need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream")
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether a stream is to end with what the answer took."""
        return self.stream_options is not None and self.stream_options.include_usage

    def for_engine(self) -> bytes:
        """Return what the engine gets: everything but labels and what was left out. Its streams
        tell what they took, which counts against the key.
        """
        body = self
        if self.stream:
            options = StreamOptions(include_usage=True)
            body = self.model_copy(update={"stream_options": options})
        return body.model_dump_json(
            exclude_unset=True, exclude_none=True, exclude=set(LABELS)
        ).encode()


class Message(BaseModel):
    """A turn of the chat, with what the client's own answers carry when they are sent back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, JsonValue]] | None = None
    name: str | None = None
    tool_calls: list[dict[str, JsonValue]] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: list[dict[str, JsonValue]] | None = None

    @field_serializer("role")
    def _as_trained(self, role: str) -> str:
        """Templates know no developer; in training, too, its words are the system's."""
        return "system" if role == "developer" else role


class ChatCompletionRequest(InferenceRequest):
    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int | None, Field(ge=1)] = None
    tools: list[dict[str, JsonValue]] | None = None
    tool_choice: JsonValue = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, JsonValue] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, Field(ge=0, le=20)] = None
    reasoning_effort: str | None = None
    chat_template_kwargs: Annotated[
        dict[str, JsonValue] | None, Field(description="handed to the model's chat template")
    ] = None
    metadata: Annotated[dict[str, str] | None, Field(description="a label; not used here")] = None
    safety_identifier: Annotated[str | None, Field(description="a label; not used here")] = None
    prompt_cache_key: Annotated[str | None, Field(description="a label; not used here")] = None

    @model_validator(mode="after")
    def _refuse_media(self) -> Self:
        for i, message in enumerate(self.messages):
            parts = message.content if isinstance(message.content, list) else ()
            for kind in (part.get("type") for part in parts):
                if isinstance(kind, str) and kind in MEDIA:
                    raise InvalidRequest(
                        f"messages.{i}.content: '{kind}' is no text; models here read text alone.",
                        param=f"messages.{i}.content",
                        code=MEDIA[kind],
                    )
        return self


class CompletionRequest(InferenceRequest):
    prompt: str | Annotated[list[str], Field(min_length=1, max_length=64)]
    logprobs: Annotated[int | None, Field(ge=0, le=5)] = None
