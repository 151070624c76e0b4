import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.http.pagination import Object
from app.models import StoredAnswer
from app.models.answer_file import Metadata
from app.models.job_request import NO_NUL
from app.models.strict_model import StrictModel

Order = Literal["asc", "desc"]
MAX_CORRECTION_CHARACTERS = 2**19


class Correction(StrictModel):
    corrected: Annotated[
        Annotated[str, Field(min_length=1, max_length=MAX_CORRECTION_CHARACTERS)]
        | dict[str, JsonValue]
        | None,
        Field(description="the text, or the message, that should have come; null removes it"),
    ]


class StoredAnswerChange(StrictModel):
    """Changes of a stored answer; absent fields stay as they are."""

    metadata: Annotated[
        Metadata | None,
        Field(description="in place of all pairs; `rating` says how good the answer is"),
    ] = None
    falqon: Correction | None = None


class Judgement(StrictModel):
    """Rating and correction that a person writes; an empty text takes one away."""

    rating: Annotated[str, Field(max_length=512, pattern=NO_NUL)] = ""
    corrected: Annotated[str, Field(max_length=MAX_CORRECTION_CHARACTERS)] = ""


class StoredAnswerObject(Object):
    """The object that the client got, with its metadata and the corrected answer."""

    model_config = ConfigDict(extra="allow")

    metadata: dict[str, str]
    corrected: Annotated[
        dict[str, Any] | None, Field(description="the message that should have come")
    ]

    @classmethod
    def of(cls, answer: StoredAnswer, metadata: dict[str, str]) -> Self:
        fields = json.loads(answer.document) | {
            "id": answer.public_id,
            "metadata": metadata,
            "corrected": None if answer.corrected is None else json.loads(answer.corrected),
        }
        return cls.model_validate(fields)


class AnswerRow(Object):
    """Stored answer beside the last message of its question, for people."""

    answer: StoredAnswerObject
    question: str

    @classmethod
    def of(cls, answer: StoredAnswer, metadata: dict[str, str]) -> Self:
        public_id = answer.public_id
        last = json.loads(answer.question)["messages"][-1]
        return cls(
            id=public_id,
            answer=StoredAnswerObject.of(answer, metadata),
            question=StoredMessage.of(public_id, 0, last).content or "",
        )


class StoredMessage(Object):
    """Message of a question, as OpenAI's client reads it."""

    role: str
    content: str | None
    content_parts: list[JsonValue] | None
    name: str | None
    tool_calls: list[JsonValue] | None
    tool_call_id: str | None

    @classmethod
    def of(cls, public_id: str, number: int, message: dict[str, Any]) -> Self:
        content = message.get("content")
        parts = content if isinstance(content, list) else None
        if parts is not None:
            content = "\n".join(str(part.get("text", "")) for part in parts)
        names = ("name", "tool_calls", "tool_call_id")
        return cls(
            id=f"{public_id}-{number}",
            role=message["role"],
            content=content,
            content_parts=parts,
            **{name: message.get(name) for name in names},
        )


class StoredAnswerDeleted(Object):
    object: Literal["chat.completion.deleted", "response"]
    deleted: bool = True


class StoredAnswersDeleted(BaseModel):
    object: Literal["stored_answers.deleted"] = "stored_answers.deleted"
    num_deleted: int
    has_more: Annotated[bool, Field(description="more match; send the request again")]
