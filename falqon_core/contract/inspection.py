"""Statistics of a file under a model: the answer of `python -m falqon_core inspect`, one JSON
object.

Tokens are counted with the model's own tokenizer and chat template. A preference record is two
sequences, one with each answer; a chat may be one for each turn.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Histogram(_Part):
    """`edges` has one number more than `counts`, each between two whole lengths. The last bin is
    wider than the others where a few sequences are much longer than the rest.
    """

    edges: list[float]
    counts: list[int]


class Likeness(_Part):
    line: int
    like_line: int
    similarity: Annotated[
        float,
        Field(description="1: the same; else the share of common pieces, estimated to about 0.05"),
    ]


class Alike(_Part):
    """`records` counts all, `examples` lists the first."""

    records: int
    examples: list[Likeness]


class Duplicates(_Part):
    """Copies of earlier records of the file. `exact`: the whole record is the same. `near`: alike
    to at least `near_threshold`, system messages, case and white space aside; only the first
    `near_compared` records are compared.
    """

    exact: Alike
    near: Alike
    near_threshold: float
    near_compared: int


class Leakage(_Part):
    """Records of the validation file (`line`) that are also in the training file (`like_line`)."""

    validation_records: int
    exact: Alike
    near: Alike
    near_threshold: float


class Preview(_Part):
    """Each token as text, and whether it is learned. A character of several tokens stands at the
    last of them.
    """

    line: int
    part: int = Field(1, description="which of the record's sequences this is, from 1")
    parts: int = Field(1, description="how many sequences the record becomes")
    tokens: list[tuple[str, bool]]
    rejected: list[tuple[str, bool]] | None = Field(
        None, description="of a preference record: the sequence with the other answer"
    )
    later_turns: list[list[tuple[str, bool]]] = Field(
        [],
        description="of a chat whose turns the model's chat template rewrites once later ones "
        "follow: the sequences of its later turns, the first ones of them",
    )
    shortened: bool = Field(description="whether there are more tokens than are shown")


class DataWarning(_Part):
    """Something that a model makes of records and that their author may not expect. Nothing is
    refused for it.
    """

    code: Literal[
        "tool_calls_dropped",
        "tools_dropped",
        "reasoning_dropped",
        "reasoning_missing",
        "turns_rewritten",
        "control_tokens",
    ]
    records: int
    first_line: int
    message: Annotated[str, Field(description="a sentence with both numbers and what to do")]


class OverlapCount(_Part):
    text_overlap_tokens: int
    sequences: int
    tokens_per_epoch: int


class Inspection(_Part):
    records: int = Field(description="good ones; each is trained on, but for those without targets")
    records_without_targets: int = Field(
        description="nothing to learn is left of them within max_seq_length; training leaves them "
        "out"
    )
    bad_records: int = Field(
        description="lines that are no record, or that the model's chat template or tokenizer "
        "refuses"
    )
    errors: list[str]
    sequences: int = Field(
        description="what the model reads: one a record, two of a preference record, and of a chat "
        "one for each learned turn that the model's chat template rewrites once later ones follow"
    )
    tokens_per_epoch: int = Field(description="after cutting, without what training leaves out")
    target_tokens_per_epoch: int
    max_seq_length: int
    truncated: int = Field(description="records of which something is cut away")
    tokens_cut: int
    split: int | None = Field(
        None,
        description="texts longer than max_seq_length, which become several sequences; null where "
        "they were still cut",
    )
    overlaps: list[OverlapCount] = Field(
        [],
        description="of a file with such texts: what it comes to with falqon.text_overlap_tokens "
        "from 0 to half of max_seq_length, in steps of 1/32 of it",
    )
    longest: int = Field(
        description="tokens of the longest sequence before cutting and splitting, as all lengths "
        "here"
    )
    median: float
    histogram: Histogram
    duplicates: Duplicates
    leakage: Leakage | None = None
    preview: list[Preview]
    warnings: list[DataWarning] = []
