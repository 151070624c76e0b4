"""Everything that a training needs before its first step: data, recipe, model and state."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from falqon_core.contract.config import Recipe, TrainConfig
from falqon_core.contract.errors import ConfigError
from falqon_core.data.dataset import Dataset
from falqon_core.data.summary import summarize
from falqon_core.data.template_defaults import set_template_defaults
from falqon_core.estimate.block_fit import weights_refusal
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.memory import MemoryPlan
from falqon_core.methods import TrainingMethod, check_packages
from falqon_core.methods.falqon import Falqon
from falqon_core.ops.scaled_mm import has_fp8_gemm
from falqon_core.train.activation_checkpointing import checkpoint_activations
from falqon_core.train.activation_offload import offload_inputs
from falqon_core.train.agreement import check_agreement
from falqon_core.train.base_identity import fingerprint_base
from falqon_core.train.checkpoint import Progress, TrainingState, newest_checkpoint
from falqon_core.train.data import Datasets, load_data
from falqon_core.train.device import select_device
from falqon_core.train.distributed import ProcessGroup
from falqon_core.train.gpu_needs import check_gpu_needs
from falqon_core.train.memory import OutOfMemoryGuard, fits_untouched
from falqon_core.train.model import (
    check_token_id,
    load_base_model,
    load_dimensions,
    load_tokenizer,
)
from falqon_core.train.reference import apply_reference, compute_reference, read_reference
from falqon_core.train.resume import (
    check_same_training,
    device_name,
    hash_data,
    recipe_fit_to_memory,
    recipe_for_data,
    replace_lost_best,
)
from falqon_core.train.state import TrainState, build_state, prepare_method
from falqon_core.train.streaming import stream_layers


@dataclass(frozen=True)
class Setup:
    """The parts of a training that is ready for its first step."""

    device: torch.device
    dimensions: ModelDimensions
    tokenizer: PreTrainedTokenizerBase
    data: Datasets
    guard: OutOfMemoryGuard
    state: TrainState


def set_up(
    config: TrainConfig,
    output: Path,
    warn: Callable[[str], None],
    report: Callable[[str], None],
    stop: Callable[[], bool],
    group: ProcessGroup,
) -> Setup:
    """Load data and model, and the newest checkpoint in `output` if there is one.

    Long parts send their progress to `report`. Raises the errors of `contract.errors`, and
    `StopRequested` where `stop` returns True there.
    """
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    check_packages(config.recipe.method)
    device = select_device(config.device, config.device_name)
    check_gpu_needs(device, warn)
    dimensions = load_dimensions(config.model)
    if refusal := weights_refusal(dimensions, config.recipe):
        raise ConfigError(f"weights: {refusal}", "weights")
    if device.type == "cuda":
        dimensions = dimensions.model_copy(update={"has_fp8": has_fp8_gemm(device)})
    tokenizer = load_tokenizer(config.model)
    set_template_defaults(tokenizer, config.recipe.chat_template_kwargs)
    checkpoint = group.rank0_first(lambda: newest_checkpoint(output, warn))
    before = checkpoint.progress if checkpoint else None
    recipe = recipe_for_data(config.recipe, before)
    data = load_data(config.model_copy(update={"recipe": recipe}), tokenizer, warn)
    for dataset in data.by_name().values():
        check_token_id(dataset.largest_token_id, dimensions.vocab_size, tokenizer)
    resolved = _resolve(recipe, data, config.validation_file is not None, dimensions.hidden_size)
    plan = recipe_fit_to_memory(resolved, before, dimensions, device, group, warn)
    recipe = plan.recipe
    progress = Progress(
        recipe=recipe,
        num_records=data.train.num_records,
        num_tokens=data.train.num_tokens,
        num_threads=torch.get_num_threads(),
        num_processes=group.size,
        device_name=device_name(device),
        data=summarize(data.train, data.validation),
        data_sha256=hash_data(data, tokenizer),
        base_fingerprint=fingerprint_base(config.model),
    )
    if checkpoint is not None:
        check_same_training(checkpoint.progress, progress, warn)
        replace_lost_best(output, checkpoint.progress, warn)
    if recipe.find_rate:
        data = data._replace(validation=None)  # Held out, but a range test evaluates nothing.
    guard = OutOfMemoryGuard(plan, dimensions, device)

    whole = fits_untouched(recipe, dimensions, device)
    model = load_base_model(config.model, device, streamed=not whole)
    ranks = group if plan.placement.num_shards > 1 else None
    if plan.placement.offloads:
        report("inputs of layers wait in host memory for their backward pass")
    method = guard(lambda: _prepare(model, data.train, plan, checkpoint, whole, ranks))
    if isinstance(method, Falqon) and method.shards is not None:
        group.compute_sharded(method.shards)
        report(
            f"one device does not hold this training: each of {group.size} keeps a part of the "
            "weights, and gets those of the others layer by layer"
        )
    group.check_same(method.state())
    if checkpoint is None:
        reference = guard(lambda: compute_reference(model, data, recipe, group, report, stop))
    else:
        reference = read_reference(checkpoint.method)
    data = apply_reference(data, reference)
    state = build_state(model, method, data.train, reference, progress, checkpoint)
    return Setup(device, dimensions, tokenizer, data, guard, state)


def _resolve(recipe: Recipe, data: Datasets, has_validation_file: bool, width: int) -> Recipe:
    """Resolve `recipe` for the whole training file, of which `data` may hold some out."""
    parts = [data.train]
    if data.validation is not None and not has_validation_file:
        parts.append(data.validation)
    return recipe.resolved(
        sum(part.num_records for part in parts),
        width=width,
        num_examples=sum(len(part.sequences) for part in parts),
        has_validation_file=has_validation_file,
    )


def _prepare(
    model: PreTrainedModel,
    train: Dataset,
    plan: MemoryPlan,
    checkpoint: TrainingState | None,
    whole: bool,
    ranks: ProcessGroup | None,
) -> TrainingMethod:
    """Change `model` to train from the start or from `checkpoint`; unless it is `whole` its layers
    come to the device one by one. With `ranks` it is sharded.
    """
    with nullcontext() if whole else stream_layers(model):
        if whole:
            _spare_activations(model, plan)
        elif plan.placement.offloads:
            offload_inputs(model)
        check_agreement(model)
        method = prepare_method(model, train, plan.recipe, checkpoint, ranks)
    if not whole:
        _spare_activations(model, plan)
    return method


def _spare_activations(model: PreTrainedModel, plan: MemoryPlan) -> None:
    if plan.recipe.activation_checkpointing:
        checkpoint_activations(model)
    if plan.placement.offloads:
        offload_inputs(model)
