"""Requests of the Responses API, and the chat that each of them is."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from app.base.errors import InvalidRequest
from app.inference.sampling import OWN_FIELDS, EngineSampling
from app.models.answer_file import Metadata
from app.responses.items import Input, Message, messages_of

# Parameters of OpenAI's that nothing here supports, each with the alternative.
UNSUPPORTED_FIELDS = {
    "access_programs": "leave it out",
    "background": "read the answer as it comes, or with stream",
    "background_options": "leave it out",
    "context_management": "send a shorter input",
    "conversation": "send previous_response_id",
    "image": "models here read text alone",
    "max_tool_calls": "tools are called by the client, which counts them",
    "moderation": "leave it out",
    "prompt": "send instructions and input",
    "top_logprobs": "ask /v1/chat/completions with logprobs",
}
# Hints that no engine here takes; a header of the answer names them.
IGNORED_FIELDS = ("include", "prompt_cache_options", "truncation")


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FunctionTool(Part):
    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None

    @property
    def for_chat(self) -> Message:
        function = self.model_dump(exclude={"type"}, exclude_none=True)
        return {"type": "function", "function": function}


class NamedTool(Part):
    type: Literal["function"]
    name: str

    @property
    def for_chat(self) -> Message:
        return {"type": "function", "function": {"name": self.name}}


class AllowedTools(Part):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedTool]

    @property
    def for_chat(self) -> Message:
        allowed = {"mode": self.mode, "tools": [tool.for_chat for tool in self.tools]}
        return {"type": "allowed_tools", "allowed_tools": allowed}


class TextFormat(Part):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @property
    def for_chat(self) -> Message:
        if self.type != "json_schema":
            return {"type": self.type}
        described = self.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
        return {"type": "json_schema", "json_schema": described}


class TextOptions(Part):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Part):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class StreamOptions(Part):
    include_obfuscation: Annotated[bool, Field(description="nothing is added here")] = False


class ResponseRequest(EngineSampling):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1, max_length=512)]
    input: Annotated[Input, Field(description="a text, or a list of items")]
    instructions: str | None = None
    previous_response_id: Annotated[str | None, Field(max_length=256)] = None
    store: Annotated[
        bool | None, Field(description="false: not kept, in a project that stores answers")
    ] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_output_tokens: Annotated[int | None, Field(ge=1)] = None
    temperature: Annotated[float | None, Field(ge=0, le=2)] = None
    top_p: Annotated[float | None, Field(ge=0, le=1)] = None
    tools: list[FunctionTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | AllowedTools | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    metadata: Annotated[Metadata | None, Field(description="kept with the stored response")] = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: Annotated[str | None, Field(description="a label; not used here")] = None
    prompt_cache_retention: Annotated[str | None, Field(description="not used here")] = None
    prompt_cache_options: Annotated[
        dict[str, JsonValue] | None, Field(description="not used here")
    ] = None
    service_tier: Annotated[str | None, Field(description="not used here")] = None
    include: Annotated[list[str] | None, Field(description="not used here")] = None
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        Field(description="not used here: an input that is too long is refused"),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        for name in UNSUPPORTED_FIELDS.keys() & body.keys():
            if body[name] not in (None, False, 0):
                raise InvalidRequest(
                    f"{name}: not supported here; {UNSUPPORTED_FIELDS[name]}.",
                    param=name,
                    code="unsupported_parameter",
                )
        for i, tool in enumerate(tools if isinstance(tools := body.get("tools"), list) else ()):
            kind = tool.get("type") if isinstance(tool, dict) else None
            if isinstance(kind, str) and kind != "function":
                raise InvalidRequest(
                    f"tools.{i}.type: '{kind[:40]}' is none of the tools here; models call "
                    "functions, which the client runs.",
                    param=f"tools.{i}.type",
                    code="unsupported_tool",
                )
        return {name: value for name, value in body.items() if name not in UNSUPPORTED_FIELDS}

    @property
    def ignored_fields(self) -> list[str]:
        """Return the fields that were sent and have no effect."""
        values = {name: getattr(self, name) for name in IGNORED_FIELDS}
        return [name for name, value in values.items() if value not in (None, [], "disabled")]

    def chat(self, earlier: list[Message]) -> dict[str, Any]:
        """Return the chat completion to ask for, after the messages of an earlier response."""
        system = [{"role": "system", "content": self.instructions}] if self.instructions else []
        text = self.text or TextOptions()
        choice = self.tool_choice
        fields: dict[str, Any] = {
            "messages": [*system, *earlier, *messages_of(self.input)],
            "max_completion_tokens": self.max_output_tokens,
            "tools": [tool.for_chat for tool in self.tools] if self.tools else None,
            "tool_choice": choice if isinstance(choice, str | None) else choice.for_chat,
            "response_format": text.format.for_chat if text.format else None,
            "verbosity": text.verbosity,
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
        }
        same = {"model", "store", "stream", "temperature", "top_p", "parallel_tool_calls"}
        same |= {"metadata", "user", "safety_identifier", *OWN_FIELDS}
        fields |= {name: getattr(self, name) for name in same}
        return {name: value for name, value in fields.items() if value is not None}
