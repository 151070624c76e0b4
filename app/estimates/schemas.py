from typing import Annotated, Literal

from pydantic import Field

from app.http.pagination import Object


class AccuracyObject(Object):
    """Accuracy of estimates of one model, method and device against the actual values of jobs."""

    object: Literal["fine_tuning.estimate.accuracy"] = "fine_tuning.estimate.accuracy"
    model: str
    method: str
    device: str
    n: int
    median_ratio: Annotated[
        float,
        Field(
            description="actual over expected seconds; 1.0 is exact, more is slower than expected"
        ),
    ]
    inside_band: Annotated[
        float, Field(description="share of the jobs between low and high, 0 to 1")
    ]
