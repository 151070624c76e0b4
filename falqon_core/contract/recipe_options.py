"""Every hyperparameter of a training is declared here, once. `None` means "auto"."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from falqon_core.contract.automatic import (
    MAX_EPOCHS,
    MAX_EXAMPLES,
    MAX_HELD_OUT,
    MIN_RECORDS,
    MIN_STEPS,
    USUAL_EPOCHS,
)
from falqon_core.contract.methods import LARGEST_GROUP, SMALLEST_GROUP
from falqon_core.contract.template_kwargs import TemplateKwargs

UpdateRule = Literal["anchored", "topk"]
AInit = Literal["quant_error", "orthonormal", "gradient"]
LrSchedule = Literal["constant", "linear", "cosine"]
BaseCopy = Literal["device", "int8", "host", "none"]
Quantizer = Literal["nf4", "int4"]
WeightFormat = Literal["e3m2", "e2m3"]
LearningRate = Annotated[float, Field(gt=0, le=1)]

# Above this share of bad lines the whole file is taken for a mistake.
MAX_BAD_RECORD_FRACTION = 0.1


class RecipeOptions(BaseModel):
    """Numbers and choices of a recipe: tokens and steps are counts, rates per optimizer step."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    beta: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="dpo only: how strongly the model is held to its base, higher holds more; "
        "auto: 0.1",
    )
    rank: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="of the adapters: higher learns more, and takes more memory"
    )
    alpha: Annotated[float, Field(gt=0)] | None = Field(
        None, description="the delta counts alpha/rank; auto: alpha = rank"
    )
    target_modules: tuple[str, ...] | None = Field(
        None,
        strict=False,
        description="last part of the names of the linears to meld; auto: all but lm_head",
    )
    update_rule: UpdateRule = Field(
        "anchored",
        description="falqon only: anchored rounds the base with the delta anew at each step, topk "
        "folds a few rows into the quantized weights, as published",
    )
    a_init: AInit | None = Field(
        None, description="auto: gradient; topk: quant_error, as published"
    )
    train_a: bool | None = Field(
        None,
        description="falqon only, anchored with a base: true: A trains in all linears, for a lower "
        "held-out loss and more memory; false: in none; auto: where the linears that read one "
        "input have at least as many outputs as inputs",
    )
    num_update_rows: Annotated[int, Field(ge=1)] | None = Field(
        None, description="topk only: rows folded per linear and step; auto: 10"
    )
    base_copy: BaseCopy | None = Field(
        None,
        description="anchored only: where the base weights are kept: in bf16 on the device or in "
        "host memory, or in eight bits (int8) on the device; none: nowhere, steps are rounded "
        "stochastically; auto: device on a CPU, on a GPU the faster of int8 and host",
    )
    simulate_fp8: bool = Field(
        False,
        description="round activations and gradients as an FP8 GPU does where the device would not",
    )
    group_size: Annotated[int, Field(ge=SMALLEST_GROUP, le=LARGEST_GROUP)] | None = Field(
        None,
        description="qa_lora, and ir_lora with quantizer int4: weights that share a scale and a "
        "minimum; auto: 32",
    )
    quantizer: Quantizer | None = Field(None, description="ir_lora only; auto: nf4")
    weight_format: WeightFormat | None = Field(None, description="fp6_lora only; auto: e3m2")
    adapters_fp8: bool = Field(
        False, description="fp8_lora only: the adapters' products are computed in FP8 as well"
    )

    num_epochs: Annotated[int, Field(ge=1, le=50)] | None = Field(
        None,
        description=f"passes over the data; auto: {USUAL_EPOCHS}, up to {MAX_EPOCHS} where those "
        f"are fewer than {MIN_STEPS} steps, down to 1 where they are more than {MAX_EXAMPLES:,} "
        "records",
    )
    max_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="stop after this many steps, whatever num_epochs says"
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="records, or sequences of long texts, per optimizer step; auto: 0.2% of the "
        "records, from 4 to 16",
    )
    learning_rate: LearningRate | None = Field(
        None, description="absolute, not a multiplier; auto: that of the method"
    )
    lr_schedule: LrSchedule = Field(
        "cosine",
        description="how the learning rate goes on after the warm-up, to 0 at the end"
        " unless it is constant",
    )
    find_rate: bool = Field(
        False,
        description="in the place of the training, a range test: 20 steps of rising rate around "
        "learning_rate propose another; no model comes of it",
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.03, description="share of the steps in which the learning rate rises from 0"
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="pulls the trained weights towards 0 at each step"
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    max_seq_length: Annotated[int, Field(ge=8, le=1_048_576)] = Field(
        2048, description="longer records are cut and counted, longer texts split; dpo: each half"
    )
    text_overlap_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="text that is longer than max_seq_length: the last tokens of a sequence that "
        "the next one reads again, without learning them; at most half of max_seq_length; auto: 0",
    )
    microbatch_tokens: Annotated[int, Field(ge=8)] | None = Field(
        None,
        description="tokens in one forward pass; auto: what fits into the memory that is free "
        "when the training first starts",
    )
    activation_checkpointing: bool | None = Field(
        None,
        description="keep only the inputs of layers and compute the rest again; auto: only when "
        "it does not fit otherwise, on a GPU where that is faster",
    )
    packing: bool = Field(
        True, description="False pads the records of a microbatch to one length instead"
    )
    max_bad_record_fraction: Annotated[float, Field(ge=0, le=MAX_BAD_RECORD_FRACTION)] = Field(
        0.0, description="a file with no larger share of bad records than this is used without them"
    )
    chat_template_kwargs: TemplateKwargs | None = Field(
        None,
        description='variables of the chat template, such as {"enable_thinking": false}; the '
        "trained model's template has them as defaults",
    )

    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] | None = Field(
        None,
        description="held out of the training file to check the model on, when there is no "
        f"validation file; auto: a tenth, at most {MAX_HELD_OUT} records, and of fewer than "
        f"{MIN_RECORDS} records none without early stopping; 0: none",
    )
    validation_seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="draws the records held out, which trainings of other seeds thus share"
    )
    eval_every: Annotated[int, Field(ge=1)] | None = Field(
        None, description="steps; auto: once per epoch"
    )
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="end after this many evaluations without a lower validation loss, with the "
        "model of the lowest one",
    )
    num_samples: Annotated[int, Field(ge=0, le=8)] = Field(
        2, description="validation prompts completed at each evaluation; 0: none"
    )
    sample_tokens: Annotated[int, Field(ge=1, le=512)] = Field(
        48, description="most tokens of such a completion"
    )
    checkpoint_every: Annotated[int, Field(ge=1)] = Field(50, description="steps")
    keep_checkpoints: Annotated[int, Field(ge=2, le=100)] = 2
