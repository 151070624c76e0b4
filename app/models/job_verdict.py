"""Outcome of a job's newest evaluation, kept beside the job for lists of jobs."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.models.evaluation import Verdict


class JobVerdict(BaseModel):
    """Comparison of a job's model with its base."""

    model_config = ConfigDict(frozen=True)

    evaluation_id: str
    verdict: Verdict
    sentence: str
    short: Annotated[str, Field(description="its figures alone, for a cell of a table")]
