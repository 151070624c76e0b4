"""The settings of a new job as its form shows them: in groups, only those that apply to what the
file holds and to the method, and three presets.
"""

import math
from dataclasses import dataclass

from app.jobs.schemas import JobObject
from app.web.job_form import MAIN_FIELDS, OTHER_FIELDS, Field, Values
from falqon_core.contract.automatic import MIN_RECORDS, USUAL_EPOCHS, automatic_epochs
from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.records.file_check import FileReport
from falqon_core.records.shapes import Shape, objective_for

MAX_UNSEARCHED = 10  # Files that are seen at once, without a search.
DEFAULT_METHOD: str = Recipe.model_fields["method"].default
DEFAULT_UPDATE_RULE: str = Recipe.model_fields["update_rule"].default
FIELDS_BY_GROUP = {
    "Training": "beta max_steps lr_schedule warmup_ratio weight_decay max_grad_norm "
    "microbatch_tokens activation_checkpointing",
    "LoRA and FP8": "alpha target_modules update_rule a_init train_a num_update_rows base_copy "
    "simulate_fp8 group_size quantizer weight_format adapters_fp8",
    "Validation and checkpoints": "validation_fraction validation_seed eval_every "
    "early_stopping_patience "
    "num_samples sample_tokens checkpoint_every keep_checkpoints",
    "Data": "max_seq_length text_overlap_tokens packing max_bad_record_fraction "
    "chat_template_kwargs",
}
MORE_BY_GROUP = {
    "Training": ("seed", "num_gpus", "gpu"),
    "Validation and checkpoints": ("evaluate",),
}
LEARNED_BY_SHAPE: dict[Shape, str] = {  # The learned part of records of each shape.
    "messages": "Chats: the job learns the assistant's turns (supervised).",
    "prompt/completion": "Prompts with completions: the job learns the completions (supervised).",
    "text": "Texts: the job learns to continue them (supervised).",
    "preference": "Preferences: the job learns to prefer one answer to another (DPO).",
}


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    fields: list[Field]
    more: tuple[str, ...] = ()  # fields that are of no recipe

    @property
    def names(self) -> list[str]:
        return [*(field.name for field in self.fields), *self.more]


@dataclass(frozen=True, slots=True)
class Preset:
    name: str
    title: str
    summary: str
    settings: dict[str, str]

    def values(self) -> dict[str, str]:
        """Return the values that it sets."""
        return WITHOUT_PRESET | self.settings

    def is_chosen(self, values: Values) -> bool:
        return all(values.get(name, "") == text for name, text in self.values().items())


GROUPS = [
    Group(
        title,
        [field for field in OTHER_FIELDS if field.name in names.split()],
        MORE_BY_GROUP.get(title, ()),
    )
    for title, names in FIELDS_BY_GROUP.items()
]
PRESET_FIELDS = ("n_epochs", "max_steps", "early_stopping_patience", "validation_fraction")
WITHOUT_PRESET = dict.fromkeys(PRESET_FIELDS, "")
QUICK_STEPS = 20


def presets_for(job: JobObject | None, report: FileReport | None) -> list[Preset]:
    """Return the presets for the data of `job`, whose training file has `report`; without a job,
    for data that are not chosen yet.
    """
    epochs, quick_epochs = USUAL_EPOCHS, QUICK_STEPS
    num_records = report.num_records if report else MIN_RECORDS
    if job is not None and job.config and job.estimate:
        num_examples = job.estimate.num_examples or job.estimate.num_records
        batch_size = job.config["batch_size"]
        epochs = automatic_epochs(num_examples, batch_size)
        quick_epochs = math.ceil(QUICK_STEPS / math.ceil(num_examples / batch_size))
    best = {"n_epochs": str(2 * epochs)}
    if num_records >= MIN_RECORDS:
        # Fewer hold out so few that a single one could stop the training.
        best["early_stopping_patience"] = "2"
    return [
        Preset(
            "quick",
            "Quick look",
            f"{QUICK_STEPS} steps: a first check that the loss falls.",
            {"n_epochs": str(quick_epochs), "max_steps": str(QUICK_STEPS)},
        ),
        Preset("balanced", "Balanced", "Automatic settings for your data and model.", {}),
        Preset(
            "best",
            "Best",
            f"Twice the automatic epochs; from {MIN_RECORDS} records on, with early stopping.",
            best,
        ),
    ]


def applies(name: str, values: Values, shape: Shape | None) -> bool:
    """Return True if a field has a meaning beside the others; an unchecked file may hold
    anything.
    """
    method = values.get("method") or DEFAULT_METHOD
    owners = [owner for owner, spec in METHOD_SPECS.items() if name in spec.options]
    if owners and method in METHOD_SPECS and method not in owners:
        return False
    is_topk = (
        method == DEFAULT_METHOD and (values.get("update_rule") or DEFAULT_UPDATE_RULE) == "topk"
    )
    match name:
        case "alpha" | "base_copy" | "train_a" | "weights":
            return not is_topk
        case "num_update_rows":
            return is_topk
        case "group_size":
            return method != "ir_lora" or values.get("quantizer") == "int4"
        case "beta":
            return shape is None or objective_for(shape) == "dpo"
        case "text_overlap_tokens":
            return shape in (None, "text")
        case "chat_template_kwargs":
            return shape != "text"
    return True


def applicable(values: Values, shape: Shape | None) -> list[str]:
    fields = [field for field in MAIN_FIELDS if field.methods] + OTHER_FIELDS
    return [field.name for field in fields if applies(field.name, values, shape)]


def without_foreign(values: Values, shape: Shape | None) -> dict[str, str]:
    """Leave out what was filled in before it ceased to apply; the form does not show it either."""
    return {name: text for name, text in values.items() if applies(name, values, shape)}
