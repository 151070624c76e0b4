from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field

from app.evaluations.summary import summarise
from app.models import Evaluation
from app.models.evaluation import EvaluationResult, Origin
from app.models.graders import AnyGrader, Graders
from app.operations.schemas import OperationError, OperationObject

MAX_ROWS = 1_000
MAX_TOKENS = 1_024
MAX_CHECKPOINTS = 5


class EvaluationRequest(Graders):
    file: Annotated[
        str | None,
        Field(
            max_length=256,
            description=(
                "file of rows that were not trained on; left out: the job's validation file, or "
                "the fraction of its training file that it held out"
            ),
        ),
    ] = None
    checkpoints: Annotated[
        list[Annotated[int, Field(ge=1)]],
        Field(
            max_length=MAX_CHECKPOINTS,
            description="steps of checkpoints to evaluate, too, once they are exported as fp8",
        ),
    ] = []
    max_rows: Annotated[
        int,
        Field(
            ge=1, le=MAX_ROWS, description="rows; of a larger file, so many are chosen at random"
        ),
    ] = 200
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS, description="of each answer")] = 256


class EvaluationObject(OperationObject):
    object: Literal["fine_tuning.job.evaluation"] = "fine_tuning.job.evaluation"
    fine_tuning_job_id: str
    file: Annotated[str, Field(description="the rows are in it")]
    origin: Annotated[Origin, Field(description="reason within the file")]
    graders: list[AnyGrader]
    models: Annotated[list[str], Field(description="the base first")]
    max_rows: int
    max_tokens: int
    error: Annotated[OperationError | None, Field(description="why it failed")]
    num_answers: Annotated[int, Field(description="answers of all models so far")]
    num_questions: Annotated[
        int | None, Field(description="to all models; null until the rows are chosen")
    ]
    result: Annotated[EvaluationResult | None, Field(description="null until it has completed")]
    cost: Annotated[
        Decimal | None,
        Field(
            description="so far, in dollars; part of the job's cost if the key that created the "
            "job asked and the job had ended, else usage of the key that asked"
        ),
    ]
    summary: Annotated[
        str | None,
        Field(
            description="the last model against the base in a sentence, by the first grader that "
            "gave either of them anything"
        ),
    ]

    @classmethod
    def of(cls, evaluation: Evaluation) -> Self:
        plan = evaluation.plan
        values = {
            "fine_tuning_job_id": evaluation.job_id,
            "file": evaluation.file_id,
            "origin": evaluation.origin,
            "graders": plan.graders,
            "models": [model.model for model in plan.models],
            "max_rows": plan.max_rows,
            "max_tokens": plan.max_tokens,
            "num_answers": evaluation.num_answers,
            "num_questions": num_questions(evaluation),
            "result": evaluation.result,
            "cost": evaluation.cost,
            "summary": evaluation.result and summarise(evaluation.result),
        }
        return cls(**cls.values_of(evaluation), **values)


def num_questions(evaluation: Evaluation) -> int | None:
    if evaluation.num_rows is None:
        return None
    return evaluation.num_rows * len(evaluation.plan.models)
