"""Configuration of a training: the recipe, and the inputs of one execution.

`Recipe` holds the hyperparameters (recipe_options.py); the HTTP API, the database and the trainer
all use this class. `None` means "auto"; `Recipe.resolved` turns every "auto" that decides steps or
rates into the number that really runs, and what is stored beside a job is that form. `TrainConfig`
adds the paths of one execution. Everything is frozen, refuses unknown fields, and refuses
combinations that the method cannot honour instead of ignoring them.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from falqon_core.contract import range_test
from falqon_core.contract.automatic import (
    MIN_RECORDS,
    automatic_epochs,
    automatic_evaluation_steps,
    automatic_fraction,
    num_held_out,
)
from falqon_core.contract.block_weights import title_of
from falqon_core.contract.methods import METHOD_SPECS, MethodName, foreign_options
from falqon_core.contract.rates import MEASURED_WIDTH, AutomaticRate, rate_for_width
from falqon_core.contract.recipe_options import AInit, RecipeOptions, UpdateRule

ObjectiveName = Literal["supervised", "dpo"]
DeviceChoice = Literal["auto", "cpu", "cuda"]

# Measured (benchmarks/results/learning.md): A along the gradient learns most, and at half the rate
# of the others. The published rule's 2e-3 is the published rate; it only compensates for lost
# updates.
DEFAULT_A_INIT: dict[UpdateRule, AInit] = {"anchored": "gradient", "topk": "quant_error"}
ANCHORED_LEARNING_RATE: dict[AInit, float] = {
    "gradient": 5e-4,
    "orthonormal": 1e-3,
    "quant_error": 1e-3,
}
PUBLISHED_LEARNING_RATE = 2e-3
# Preferences are learned at a tenth of the supervised rate, as is usual in the literature;
# benchmarks/results/preference.md compares it with a third and three times of it.
DPO_LEARNING_RATE_FACTOR = 0.1
DEFAULT_BETA = 0.1
PUBLISHED_NUM_UPDATE_ROWS = 10
DEFAULT_GROUP_SIZE = 32  # INT4, as published.


class Recipe(RecipeOptions):
    """Everything that decides what a training computes."""

    objective: ObjectiveName = Field("supervised", description="Training objective")
    method: MethodName = Field("falqon", description="Training method")

    @model_validator(mode="after")
    def _refuse_options_of_other_methods(self) -> Self:
        for name, owners in foreign_options(self.method).items():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(
                    f"{name}: method {self.method!r} does not have it, only {', '.join(owners)}; "
                    "leave it out"
                )
        if self.method == "ir_lora" and self.quantizer != "int4" and self.group_size is not None:
            raise ValueError(
                "group_size: quantizer 'nf4' has blocks of 64; leave it out or take 'int4'"
            )
        return self

    @model_validator(mode="after")
    def _refuse_what_cannot_be_honoured(self) -> Self:
        if self.update_rule == "topk" and self.alpha is not None:
            raise ValueError(
                "alpha: update_rule 'topk' folds the unscaled delta (published rule); leave alpha "
                "out or use 'anchored'"
            )
        if self.update_rule != "topk" and self.num_update_rows is not None:
            raise ValueError(
                "num_update_rows: only update_rule 'topk' selects rows; 'anchored' refreshes all "
                "of them"
            )
        if self.update_rule == "topk" and self.base_copy is not None:
            raise ValueError(
                "base_copy: update_rule 'topk' writes to the quantized weights in place and keeps "
                "no base; leave it out"
            )
        if self.train_a and (self.update_rule == "topk" or self.base_copy == "none"):
            raise ValueError(
                "train_a: without a base the rows are all that is left of the A of earlier steps; "
                "leave it out or use update_rule 'anchored' with a base"
            )
        if self.weight_decay > 0 and (self.update_rule == "topk" or self.base_copy == "none"):
            raise ValueError(
                "weight_decay: without a base the delta is zero again after each step, so there "
                "is nothing to decay; leave it at 0"
            )
        if self.weights != "fp8":
            self._refuse_what_blocks_cannot()
        if self.objective != "dpo" and self.beta is not None:
            raise ValueError("beta: only method 'dpo' has it; leave beta out or use 'dpo'")
        if self.microbatch_tokens is not None and self.microbatch_tokens < self.longest_record:
            least = (
                "twice max_seq_length, because a pair has two halves"
                if self.objective == "dpo"
                else "max_seq_length"
            )
            raise ValueError(
                f"microbatch_tokens: must be at least {least}, or the longest record would not fit"
            )
        if 2 * (self.text_overlap_tokens or 0) > self.max_seq_length:
            raise ValueError("text_overlap_tokens: must be at most half of max_seq_length")
        if self.target_modules is not None and not self.target_modules:
            raise ValueError(
                "target_modules: name at least one linear layer, or leave it out for all"
            )
        return self

    def _refuse_what_blocks_cannot(self) -> None:
        title = title_of(self.weights)
        if self.update_rule == "topk":
            raise ValueError(
                "update_rule: 'topk' has one scale for all of a weight, and blocks of "
                f"{title} have their own; take 'anchored'"
            )
        if self.base_copy in ("none", "host"):
            raise ValueError(
                f"base_copy: {self.base_copy!r} rebuilds FP8 rows; blocks of {title} are rebuilt "
                "from a base on the device, so take 'device' or 'int8'"
            )
        if self.simulate_fp8:
            raise ValueError(
                f"simulate_fp8: with weights in {title} activations stay in bf16, in training and "
                "in serving; leave it out"
            )

    @property
    def kind(self) -> str:
        """Return the name under which speeds of like trainings are kept."""
        name = self.method if self.weights == "fp8" else f"{self.method}+{self.weights}"
        if self.objective == "supervised":
            return name
        return "dpo" if name == "falqon" else f"{name}+dpo"

    @property
    def has_fp8_products(self) -> bool:
        """Return True if its large products are in FP8 on cards that have them."""
        return METHOD_SPECS[self.method].has_fp8_products and self.weights == "fp8"

    def trains_a_of(self, num_outputs: int, num_inputs: int) -> bool:
        """Return True if A trains in linears that read the same `num_inputs` and have `num_outputs`
        together.

        Left open it does where they do not narrow: a wide input, as that of a decoder layer's down
        projection, is what takes most memory to keep.
        """
        if self.method != "falqon":
            return True
        if self.update_rule == "topk" or self.base_copy == "none":
            return False
        return num_outputs >= num_inputs if self.train_a is None else self.train_a

    @property
    def longest_record(self) -> int:
        """Return the tokens of the longest record; one of objective "dpo" is two sequences."""
        return self.max_seq_length * (2 if self.objective == "dpo" else 1)

    def automatic_rate(self, width: int = MEASURED_WIDTH) -> AutomaticRate:
        """Return the automatic rate, before the multiplier, for a model of hidden size `width`."""
        is_dpo = self.objective == "dpo"
        factor = DPO_LEARNING_RATE_FACTOR if is_dpo else 1.0
        if self.update_rule == "topk":
            reason = "a tenth of the published one" if is_dpo else "as published"
            return AutomaticRate(value=PUBLISHED_LEARNING_RATE * factor, reason=reason)
        rate = METHOD_SPECS[self.method].learning_rate
        if self.method == "falqon":
            rate = ANCHORED_LEARNING_RATE[self.a_init or DEFAULT_A_INIT[self.update_rule]]
        return rate_for_width(rate * factor, width)

    def with_fraction(self, num_records: int, has_validation_file: bool) -> "Recipe":
        """Return the recipe with a number for `validation_fraction`; `num_records` are all of the
        training file.
        """
        if self.validation_fraction is not None:
            return self
        holds_out = num_records >= MIN_RECORDS or self.early_stopping_patience is not None
        fraction = 0.0
        if holds_out and not has_validation_file:
            fraction = automatic_fraction(num_records)
        return self.model_copy(update={"validation_fraction": fraction})

    def num_held_out(self, num_records: int) -> int:
        """Count the records that a recipe with a number for `validation_fraction` holds out."""
        assert self.validation_fraction is not None, "resolve the recipe first"
        return num_held_out(num_records, self.validation_fraction)

    def resolved(
        self,
        num_records: int,
        learning_rate_multiplier: float = 1.0,
        width: int = MEASURED_WIDTH,
        *,
        num_examples: int | None = None,
        has_validation_file: bool = False,
    ) -> "Recipe":
        """Return the recipe with every "auto" that decides steps or rates made a number.

        `width` is the hidden size of the model. `num_records` are all of the training file, and
        `num_examples` the sequences that they become where texts are long. What depends on the
        memory of a device (`microbatch_tokens`, `activation_checkpointing`, `base_copy`) stays
        open; `estimate.memory` decides it. Batch size follows 0.2 % of what is trained on, between
        4 and 16. An explicit `learning_rate` is absolute, so `learning_rate_multiplier` scales the
        automatic one only. Nothing is validated again: every automatic value but a multiplied rate
        is valid in any valid recipe.
        """
        held_out = self.with_fraction(num_records, has_validation_file)
        num_trained = max(1, num_records - held_out.num_held_out(num_records))
        num_trained = (num_examples or num_records) * num_trained // max(1, num_records)
        batch_size = self.batch_size or min(16, max(4, round(num_trained * 0.002)))
        auto: dict[str, object] = {
            "validation_fraction": held_out.validation_fraction,
            "num_epochs": automatic_epochs(num_trained, batch_size),
            "batch_size": batch_size,
            "learning_rate": self.automatic_rate(width).value * learning_rate_multiplier,
        }
        if self.objective == "dpo":
            auto["beta"] = DEFAULT_BETA
        auto |= self._auto_options()
        if self.update_rule == "topk":
            auto["num_update_rows"] = PUBLISHED_NUM_UPDATE_ROWS
        else:
            auto["alpha"] = float(self.rank)
        missing = {name: value for name, value in auto.items() if getattr(self, name) is None}
        return self.model_copy(update=dict(self) | missing)

    def _auto_options(self) -> dict[str, object]:
        """Return the automatic values of the options that the method has of its own."""
        match self.method:
            case "falqon":
                return {"a_init": DEFAULT_A_INIT[self.update_rule]}
            case "qa_lora":
                return {"group_size": DEFAULT_GROUP_SIZE}
            case "ir_lora" if self.quantizer == "int4":
                return {"group_size": DEFAULT_GROUP_SIZE}
            case "ir_lora":
                return {"quantizer": "nf4"}
            case "fp6_lora":
                return {"weight_format": "e3m2"}
        return {}

    def num_steps(self, num_examples: int) -> int:
        """Optimizer steps of a *resolved* recipe over `num_examples` training records or sequences
        of long texts; packing never changes it.
        """
        assert self.num_epochs is not None, "resolve the recipe first"
        assert self.batch_size is not None, "resolve the recipe first"
        if self.find_rate:
            return range_test.NUM_STEPS
        steps = self.num_epochs * math.ceil(num_examples / self.batch_size)
        if self.max_steps is None:
            return steps
        return min(steps, self.max_steps)

    def evaluation_steps(self, num_examples: int, num_validation_examples: int) -> int:
        """Return the optimizer steps from one evaluation of a *resolved* recipe to the next. The
        patience of early stopping counts epochs, where `eval_every` says nothing else.
        """
        assert self.batch_size is not None, "resolve the recipe first"
        if self.eval_every is not None:
            return self.eval_every
        if self.early_stopping_patience is not None:
            return max(1, math.ceil(num_examples / self.batch_size))
        # A best model is written as a checkpoint: where one is due anyway.
        return automatic_evaluation_steps(
            num_examples, self.batch_size, num_validation_examples, self.checkpoint_every
        )


def read_old_recipe(stored: Any) -> Any:
    """Return a stored recipe with the seed of its held-out records: versions before there was one
    drew them by the seed of the training.
    """
    if isinstance(stored, dict) and "validation_seed" not in stored:
        return stored | {"validation_seed": stored.get("seed", 0)}
    return stored


class TrainConfig(BaseModel):
    """One execution of the trainer: what to read, and the recipe. Output always goes to the folder
    named on the command line.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Path = Field(description="folder with config.json, safetensors and a tokenizer")
    train_file: Path
    validation_file: Path | None = None
    recipe: Recipe = Recipe()
    base_model_name: str = Field(
        "", description="shown in the model card; empty: the folder's name"
    )
    device: DeviceChoice = Field("auto", description="auto: a GPU if there is one")
    device_name: str = Field(
        "", description="price table entry that the GPU has to be; empty: any GPU will do"
    )
    certificate: bool = Field(
        True,
        description="reload the exported files in another process and prove that they are the "
        "trained model",
    )
    num_threads: Annotated[int, Field(ge=1)] | None = Field(
        None, description="CPU threads; bit-exact resume needs the same number"
    )

    def write(self, path: Path) -> None:
        """Write the file that the trainer reads, in UTF-8 in every locale."""
        path.write_text(self.model_dump_json(), encoding="utf-8")

    @model_validator(mode="after")
    def _one_source_of_validation(self) -> Self:
        if self.validation_file is not None and self.recipe.validation_fraction:
            raise ValueError(
                "validation_fraction: there is a validation_file already; leave one of them out"
            )
        if (
            self.recipe.early_stopping_patience is not None
            and self.validation_file is None
            and self.recipe.validation_fraction == 0
        ):
            raise ValueError(
                "early_stopping_patience: needs validation data; give a validation_file or a "
                "validation_fraction"
            )
        return self
