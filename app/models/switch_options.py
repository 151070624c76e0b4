"""Option `switch` of a job: the name that moves to its model, if that is not worse."""

from typing import Annotated

from pydantic import Field

from app.models.alias import ALIAS_PATTERN
from app.models.strict_model import StrictModel

MAX_CANARY_PERCENT = 50
CanaryPercent = Annotated[
    int,
    Field(
        ge=1,
        le=MAX_CANARY_PERCENT,
        description="percentage of the requests that the new model gets first; it goes back by "
        "itself if more of them fail",
    ),
]


class SwitchOptions(StrictModel):
    alias: Annotated[
        str,
        Field(
            pattern=ALIAS_PATTERN,
            description="name of the project that moves to the new model, if an evaluation on "
            "held-out rows finds it not worse than what the name stands for then",
        ),
    ]
    canary: CanaryPercent | None = None
