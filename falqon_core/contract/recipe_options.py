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
from falqon_core.contract.block_weights import Weights
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
        description="DPO only: strength of the pull towards the base model, higher stays closer; "
        "auto: 0.1",
    )
    rank: Annotated[int, Field(ge=1, le=1024)] = Field(
        64, description="Adapter rank: higher learns more and needs more memory"
    )
    alpha: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Adapter scaling, as alpha / rank; auto: alpha = rank"
    )
    target_modules: tuple[str, ...] | None = Field(
        None,
        strict=False,
        description="Layers to train, such as q_proj, v_proj; auto: all except lm_head",
    )
    weights: Weights = Field(
        "fp8",
        description="FALQON only: form of the weights that train and are served. nvfp4, mxfp4, "
        "q4_0: 4 bits in blocks; q8_0: 8 bits in blocks. Blocks need update_rule anchored",
    )
    update_rule: UpdateRule = Field(
        "anchored",
        description="FALQON only. anchored: rounds base plus delta again at each step; topk: folds "
        "a few rows into the quantized weights, as published",
    )
    a_init: AInit | None = Field(
        None, description="Initial values of adapter A; auto: gradient, with topk quant_error"
    )
    train_a: bool | None = Field(
        None,
        description="FALQON only, anchored with a base copy. true: trains A in all layers, for "
        "more memory; it had the lowest held-out loss after 60 steps, and nothing longer was "
        "measured; false: in none; auto: in layers with at least as many outputs as inputs",
    )
    num_update_rows: Annotated[int, Field(ge=1)] | None = Field(
        None, description="topk only: rows updated per layer and step; auto: 10"
    )
    base_copy: BaseCopy | None = Field(
        None,
        description="anchored only: storage of the base weights. device: bf16 on the device; host: "
        "bf16 in host memory; int8: eight bits on the device; none: no copy, with stochastic "
        "rounding; auto: device on a CPU, on a GPU the faster of int8 and host",
    )
    simulate_fp8: bool = Field(
        False,
        description="Rounds activations and gradients as an FP8 GPU does, on devices without FP8",
    )
    group_size: Annotated[int, Field(ge=SMALLEST_GROUP, le=LARGEST_GROUP)] | None = Field(
        None,
        description="qa_lora, and ir_lora with quantizer int4: weights per quantization group; "
        "auto: 32",
    )
    quantizer: Quantizer | None = Field(
        None, description="ir_lora only: 4-bit weight format; auto: nf4"
    )
    weight_format: WeightFormat | None = Field(
        None, description="fp6_lora only: 6-bit weight format; auto: e3m2"
    )
    adapters_fp8: bool = Field(
        False, description="fp8_lora only: computes the adapters in FP8, too"
    )

    num_epochs: Annotated[int, Field(ge=1, le=50)] | None = Field(
        None,
        description=f"Passes over the data; auto: {USUAL_EPOCHS}, up to {MAX_EPOCHS} for fewer "
        f"than {MIN_STEPS} steps, fewer where all epochs together would be more than "
        f"{MAX_EXAMPLES:,} records",
    )
    max_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="Limit of training steps, even before the last epoch ends"
    )
    batch_size: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None,
        description="Records per training step; auto: 0.2 % of the records, from 4 to 16",
    )
    learning_rate: LearningRate | None = Field(
        None, description="Peak learning rate, absolute; auto: by method and model size"
    )
    lr_schedule: LrSchedule = Field(
        "cosine",
        description="Decay of the learning rate after warm-up, to 0 unless constant",
    )
    find_rate: bool = Field(
        False,
        description="in the place of the training, a range test: 20 steps of rising rate around "
        "learning_rate propose another; no model comes of it",
    )
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.03, description="Warm-up as a share of all steps; the learning rate rises from 0"
    )
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Pull of the trained weights towards 0 at each step"
    )
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Maximum gradient norm; larger gradients are scaled down"
    )
    seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="Random seed: same seed, same data, same result"
    )

    max_seq_length: Annotated[int, Field(ge=8, le=1_048_576)] = Field(
        2048,
        description="Maximum tokens per record: longer records are truncated, longer texts split; "
        "DPO: each answer with its prompt",
    )
    text_overlap_tokens: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="Tokens shared by consecutive parts of a long text, learned once; at most half "
        "of max_seq_length; auto: 0",
    )
    microbatch_tokens: Annotated[int, Field(ge=8)] | None = Field(
        None,
        description="Tokens per forward pass; auto: as many as fit into free memory",
    )
    activation_checkpointing: bool | None = Field(
        None,
        description="Recomputes activations instead of storing them: less memory, more time; "
        "auto: when memory is short, on a GPU where that is faster",
    )
    packing: bool = Field(
        True, description="Combines short records without padding; false: pads them to one length"
    )
    max_bad_record_fraction: Annotated[float, Field(ge=0, le=MAX_BAD_RECORD_FRACTION)] = Field(
        0.0, description="Tolerated share of bad records, which are left out"
    )
    chat_template_kwargs: TemplateKwargs | None = Field(
        None,
        description='Variables of the chat template, such as {"enable_thinking": false}; they '
        "become the trained model's defaults",
    )

    validation_fraction: Annotated[float, Field(ge=0, le=0.5)] | None = Field(
        None,
        description="Share of the training file held out for validation, without a validation "
        f"file; auto: a tenth, at most {MAX_HELD_OUT} records, and none of fewer than "
        f"{MIN_RECORDS} records without early stopping; 0: none",
    )
    validation_seed: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        0, description="Random seed of the held-out records, independent of the training seed"
    )
    eval_every: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Steps between two evaluations; auto: those of an epoch, without early "
        "stopping fewer in a long one, which is then evaluated up to ten times",
    )
    early_stopping_patience: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Evaluations without a lower validation loss before training stops; with "
        "eval_every on auto, epochs",
    )
    num_samples: Annotated[int, Field(ge=0, le=8)] = Field(
        2,
        description="Validation prompts answered at each evaluation, once an epoch with eval_every "
        "on auto; 0: none",
    )
    sample_tokens: Annotated[int, Field(ge=1, le=512)] = Field(
        48, description="Maximum tokens of a sample answer"
    )
    checkpoint_every: Annotated[int, Field(ge=1)] = Field(
        50, description="Steps between two checkpoints"
    )
    keep_checkpoints: Annotated[int, Field(ge=2, le=100)] = Field(
        2, description="Newest checkpoints to keep"
    )
