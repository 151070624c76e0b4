from typing import Annotated, Literal, Self

from pydantic import Field

from app.evaluations.automatic import GRADERS
from app.evaluations.schemas import MAX_ROWS, MAX_TOKENS
from app.http.pagination import Object, unix_seconds
from app.models import AliasSwitch
from app.models.graders import MAX_GRADERS, AnyGrader, Graders
from app.models.switch_options import CanaryPercent


class SwitchRequest(Graders):
    """Model that is to take a name over, and the evaluation that decides."""

    model: Annotated[str, Field(min_length=1, max_length=512, description="result of a job")]
    canary: CanaryPercent | None = None
    file: Annotated[
        str | None,
        Field(
            max_length=256,
            description="file of rows that the model was not trained on; left out: those that its "
            "job held out",
        ),
    ] = None
    graders: Annotated[
        list[AnyGrader],
        Field(
            min_length=1,
            max_length=MAX_GRADERS,
            description="by each of them the model must not be worse",
        ),
    ] = GRADERS
    max_rows: Annotated[int, Field(ge=1, le=MAX_ROWS)] = 200
    max_tokens: Annotated[int, Field(ge=1, le=MAX_TOKENS, description="of each answer")] = 256


class SwitchObject(Object):
    """Move of a name to a new model, if that is not worse."""

    object: Literal["model_alias.switch"] = "model_alias.switch"
    alias: str
    model: str
    fine_tuning_job_id: Annotated[str, Field(description="of the model")]
    evaluation: Annotated[str | None, Field(description="of that job; null: none could begin")]
    canary: Annotated[int | None, Field(description="percentage of the requests")]
    status: Annotated[
        Literal["evaluating", "canary", "switched", "kept", "rolled_back"],
        Field(description="kept: the name was left as it was"),
    ]
    reason: Annotated[str | None, Field(description="null while the models are evaluated")]
    created_at: int
    ended_at: int | None

    @classmethod
    def of(cls, switch: AliasSwitch) -> Self:
        values = {
            "id": switch.id,
            "alias": switch.alias,
            "model": switch.model_id,
            "fine_tuning_job_id": switch.job_id,
            "evaluation": switch.evaluation_id,
            "canary": switch.canary_percent,
            "status": switch.status,
            "reason": switch.reason,
            "created_at": int(switch.created_at.timestamp()),
            "ended_at": unix_seconds(switch.ended_at),
        }
        return cls.model_validate(values)
