from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import PydanticType
from app.models.graders import Graders
from app.models.operation import Operation
from app.models.usage_day import Dollars

Role = Literal["base", "current", "checkpoint", "result"]
Origin = Literal["file", "validation_file", "validation_fraction"]
Verdict = Literal["better", "worse", "no_clear_difference"]


class EvaluatedModel(BaseModel):
    """Model to evaluate: the base that the training began from, one that a name stands for, a
    checkpoint, or the result.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    role: Role
    step: int | None = None


class EvaluationPlan(Graders):
    """Rows and models of an evaluation. The base comes first. `max_cost_usd`: the rest of the
    job's budget for one that nobody asked for, the rest of the day's for one of an agent.
    `rivals`: models that a name stands for, with each of which the last model is compared, too.
    """

    models: list[EvaluatedModel]
    rivals: list[str] = []
    max_rows: int
    max_tokens: int
    max_cost_usd: Decimal | None = None


class AnswerScores(BaseModel):
    """Scores of each model's answers so far: in the order of the rows, and in each row in that of
    the graders; null for a row that the engine refused.
    """

    by_model: dict[str, list[list[float] | None]] = Field(default_factory=dict)


class Difference(BaseModel):
    """Difference of a model's scores from the base's on the same rows."""

    mean: float
    standard_error: Annotated[float | None, Field(description="null for a single row")]
    p_value: Annotated[
        float,
        Field(description="p-value of the two-sided sign-flip test of the rows' differences"),
    ]
    verdict: Annotated[
        Verdict, Field(description="better or worse than the base where the p-value is below 0.05")
    ]


class GraderScore(BaseModel):
    grader: str
    mean: float
    standard_error: Annotated[float | None, Field(description="null for a single row")]
    difference: Annotated[
        Difference | None, Field(description="to the base on the same rows; null for the base")
    ]


class ModelScores(EvaluatedModel):
    scores: Annotated[list[GraderScore], Field(description="in the order of the graders")]


class AnswerExample(BaseModel):
    """Answer of the last model beside the expected one and that of the base; long texts are cut."""

    line: Annotated[int, Field(description="line of the row in its file")]
    prompt: Annotated[str, Field(description="the last message before the answer")]
    expected: str
    answer: str
    base_answer: Annotated[str | None, Field(description="null in an evaluation before 0.2.0")] = (
        None
    )
    scores: Annotated[list[float], Field(description="in the order of the graders")]


class RivalScore(BaseModel):
    """Score of the last model beside that of one that a name stands for."""

    grader: str
    mean: float
    rival_mean: float
    difference: Annotated[Difference, Field(description="from the rival on the same rows")]


class RivalComparison(BaseModel):
    rival: Annotated[str, Field(description="model that a name stands for")]
    scores: Annotated[list[RivalScore], Field(description="in the order of the graders")]


class EvaluationResult(BaseModel):
    rows: Annotated[int, Field(description="rows that every model has answered")]
    rows_left_out: Annotated[
        int, Field(description="rows that an engine refused, as too long for the model's context")
    ]
    models: list[ModelScores]
    rivals: Annotated[
        list[RivalComparison],
        Field(description="the last model against each that the name of a switch stands for"),
    ] = []
    best: Annotated[list[AnswerExample], Field(description="of the last model, best first")] = []
    worst: Annotated[list[AnswerExample], Field(description="of the last model, worst first")] = []


class Evaluation(Operation):
    """Comparison of models of a job and their base on the same held-out rows."""

    __tablename__ = "evaluations"
    __table_args__ = (Index("ix_evaluations_job_id_id", "job_id", "id"),)
    noun = "evaluation"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    key_id: Mapped[str | None]  # API key that asked for it; null: not recorded, the job's
    file_id: Mapped[str]  # the rows are in it
    origin: Mapped[str]
    plan: Mapped[EvaluationPlan] = mapped_column(PydanticType(EvaluationPlan))
    num_rows: Mapped[int | None]  # once they are chosen
    num_answers: Mapped[int] = mapped_column(default=0)
    # One row of the table, written now and then: an attempt goes on where the lost one stopped.
    scores: Mapped[AnswerScores] = mapped_column(PydanticType(AnswerScores), default=AnswerScores)
    result: Mapped[EvaluationResult | None] = mapped_column(PydanticType(EvaluationResult))
    # Time in which engines of workers answered, and its cost at the price of each moment, written
    # with the scores. Null: nothing was charged.
    seconds: Mapped[float | None]
    cost: Mapped[Decimal | None] = mapped_column(Dollars)
