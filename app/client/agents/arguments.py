"""Arguments of tools, each of a bounded size, with what an agent reads about it."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

MAX_TEXT_CHARACTERS = 1_000_000  # of a file that is sent as an argument
MAX_SETTINGS = 64
MAX_SETTING_CHARACTERS = 2_000
MAX_WAIT_SECONDS = 60


def _check_settings(settings: dict[str, Any]) -> dict[str, Any]:
    if len(settings) > MAX_SETTINGS:
        raise ValueError(f"give at most {MAX_SETTINGS} settings")
    for name, value in settings.items():
        if len(name) + len(str(value)) > MAX_SETTING_CHARACTERS:
            raise ValueError(f"a setting has at most {MAX_SETTING_CHARACTERS} characters")
        if name == "budget":
            raise ValueError("the budget is the argument max_cost_usd")
    return settings


Id = Annotated[str, Field(min_length=1, max_length=256)]
FileId = Annotated[Id, Field(description="id of a file, file-…")]
JobId = Annotated[Id, Field(description="id of a job, ftjob-…")]
ModelId = Annotated[Id, Field(description="as list_models names it")]
FileName = Annotated[str, Field(min_length=1, max_length=255)]
FileText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_TEXT_CHARACTERS,
        description="the whole file, such as one JSON object with `messages` a line",
    ),
]
Suffix = Annotated[str, Field(max_length=64, description="part of the new model's name")]
Settings = Annotated[
    dict[str, Any],
    AfterValidator(_check_settings),
    Field(
        description="fields of `falqon`, such as method, num_epochs, batch_size, learning_rate, "
        "rank; what is left out is chosen for the data and the model"
    ),
]
MaxCost = Annotated[
    str,
    Field(
        pattern=r"^[0-9]{1,9}(\.[0-9]{1,4})?$",
        description='most that the job may cost in dollars, such as "2.50"; it pauses there',
    ),
]
WaitSeconds = Annotated[int, Field(ge=0, le=MAX_WAIT_SECONDS)]
JobIds = Annotated[list[JobId], Field(min_length=2, max_length=6)]
GraderNames = Annotated[
    list[Literal["same", "holds", "fuzzy_match", "rouge_1", "rouge_2", "rouge_l"]],
    Field(
        min_length=1,
        max_length=6,
        description="same: the answer is the expected one; holds: it contains it; the others are "
        "similarities from 0 to 1",
    ),
]
Question = Annotated[str, Field(min_length=1, max_length=32_000)]
SystemPrompt = Annotated[str, Field(max_length=32_000, description="what the model is told first")]
