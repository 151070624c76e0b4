import re
from typing import get_args

from app.models import Job
from falqon_core.contract.formats import FormatName

UNSAFE_CHARACTERS = re.compile(r"[^A-Za-z0-9._-]+")
REPEATED_SEPARATOR = re.compile(r"([.-])\1+")
MAX_HUB_NAME = 96
FINE_TUNED = "ft/"
# End of a job's id, a checkpoint and a form, with what a hub's id has before.
HUB_FIELDS = re.compile(
    rf"ft/(?:.*?-)?([^-]++)(?:-(ckpt-step-[0-9]++))?(?:-({'|'.join(get_args(FormatName))}))?"
)


def fine_tuned_model_id(job: Job, project_name: str) -> str:
    """Return `ft:<base>:<project>:<suffix>:<8 of the job's id>`, with an empty field if there is no
    suffix.

    A model that continues from a fine-tuned model is named by the base model that the chain began
    with.
    """
    # The end of an id is random; its beginning is a clock.
    return fine_tuned_name(job.base_model_id, project_name, job.suffix, job.id[-8:])


def fine_tuned_name(base_model_id: str, project_name: str, suffix: str | None, tail: str) -> str:
    """Return the id of a model by its parts; `tail`: the end of the job's id."""
    base = base_model_id.split(":")[1] if base_model_id.startswith("ft:") else base_model_id
    return f"ft:{base}:{UNSAFE_CHARACTERS.sub('-', project_name)}:{suffix or ''}:{tail}"


def hub_id(model_id: str) -> str:
    """Return the name of a model for Hugging Face's libraries, whose ids have fewer characters:
    `ft/<base>-<suffix>-<8 of the job's id>` for a fine-tuned one, with its form behind; for a base
    model its id, if they accept it.
    """
    if not model_id.startswith("ft:"):
        return "/".join(_hub_name(part) for part in model_id.split("/", 1))
    fields = model_id.removeprefix("ft:").split(":")
    num_named = min(3, len(fields) - 1)  # base, project, suffix
    base = fields[0] if num_named else ""
    name = _hub_name("-".join([base.rpartition("/")[2], *fields[2:num_named]]))
    # Kept whole, as it tells the model from others: the end of the job's id, and the form.
    tail = "-".join(fields[num_named:])
    return f"{FINE_TUNED}{name[: MAX_HUB_NAME - len(tail) - 1].strip('.-')}-{tail}"


def end_of_id(hub_id: str) -> str:
    """Return the end of the ids of all fine-tuned models that may have a name."""
    fields = HUB_FIELDS.fullmatch(hub_id)
    tail = fields.groups() if fields else [hub_id.rpartition("-")[2]]
    return ":" + ":".join(field for field in tail if field)


def _hub_name(text: str) -> str:
    return (
        REPEATED_SEPARATOR.sub(r"\1", UNSAFE_CHARACTERS.sub("-", text))
        .removesuffix(".git")
        .strip(".-")
        or "model"
    )
