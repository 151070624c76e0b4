from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from app.models.job_request import MAX_METADATA_PAIRS, NO_NUL
from app.models.strict_model import StrictModel

MAX_SECONDS = 2**33  # unix seconds: the year 2242
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64, pattern=NO_NUL)],
        Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)],
    ],
    Field(max_length=MAX_METADATA_PAIRS),
]
Moment = Annotated[int, Field(ge=1, lt=MAX_SECONDS)]


class AnswerFilter(StrictModel):
    """Stored answers that a list, a deletion or a file is about; an absent field limits nothing."""

    kind: Literal["chat.completion", "response"] | None = None
    model: Annotated[str | None, Field(min_length=1, max_length=512)] = None
    metadata: Annotated[Metadata, Field(description="pairs that an answer has, all of them")] = {}
    created_after: Annotated[Moment | None, Field(description="unix seconds, inclusive")] = None
    created_before: Annotated[Moment | None, Field(description="unix seconds, exclusive")] = None
    corrected: Annotated[
        bool | None, Field(description="only those with a corrected answer, or without")
    ] = None

    @property
    def is_empty(self) -> bool:
        return self == AnswerFilter()


class AnswerFileRequest(StrictModel):
    """File to make of stored answers; the file keeps it, so that it can be made again."""

    filter: AnswerFilter = AnswerFilter()
    shape: Annotated[
        Literal["supervised", "preference"],
        Field(
            description="the corrected answer, else the given one; or pairs of the corrected and "
            "the given one"
        ),
    ] = "supervised"
    held_out_file: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=256,
            description="a file whose questions are left out, such as the one to evaluate with",
        ),
    ] = None

    @model_validator(mode="after")
    def _pair_corrected_ones(self) -> Self:
        if self.shape == "preference" and self.filter.corrected is False:
            raise ValueError("shape: a pair needs a corrected answer, and the filter excludes them")
        return self


class AnswerFileOrigin(StrictModel):
    """Origin of a file made of stored answers: the request, and the answers that are no line."""

    request: AnswerFileRequest
    num_answers: Annotated[int, Field(description="answers that matched the filter")]
    num_repeated: Annotated[int, Field(description="the same again, or with a correction")]
    num_held_out: int
    num_unusable: Annotated[int, Field(description="cut, empty, or no pair")]
