"""Whether the parts of a model fit one another: its config, its tensors, its tokenizer and its chat template.

What a config asks for is not worked out here: transformers builds the model without memory for its weights (torch's meta device),
and its own names and shapes are compared with those in the files. Tensors that it has no place for are ignored, as it does.
What is given up: the numbers in the weights, which only training will see.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from falqon_core.contract.errors import ModelError, is_allocation_failure, is_disk_full
from falqon_core.contract.model_folder import check_model_files
from falqon_core.data.chat_template import check_template

PROBE = "a"  # which any tokenizer that can read a data set has a token for


def check_tensors(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `ModelError` unless `shapes` are those of the tensors that the folder's config.json describes.

    The numbers in config.json must have been checked (`estimate.dimensions`).
    """
    model = _skeleton(folder)
    prefix = f"{model.base_model_prefix}."
    missing = []
    for name, tensor in model.state_dict().items():
        expected = tuple(tensor.shape)
        found = shapes.get(name, shapes.get(name.removeprefix(prefix)))  # the bare decoder is saved without its prefix
        if found is None:
            missing += [] if name in model.all_tied_weights_keys else [name]
        elif found != expected:
            raise ModelError(f"{name} has the shape {list(found)}, but config.json makes it {list(expected)}", "model")
    if missing:  # transformers would train on random numbers there
        raise ModelError(f"the model's files lack {len(missing)} tensors, the first is {sorted(missing)[0]}", "model")


def _skeleton(folder: Path) -> PreTrainedModel:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)](config)
    except Exception as error:  # a config can go wrong in any way, and nothing else is looked at here
        raise blamed_on_model("config.json describes no model that can be built", error) from error


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer as training and serving load it.

    Raises `ModelError` when the folder has no usable one, or holds what is refused.
    """
    check_model_files(folder)
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the library raises plain ones, too
        raise blamed_on_model("the tokenizer cannot be loaded", error) from error


def check_tokenizer(folder: Path, num_rows: int) -> None:
    """Raise `ModelError` unless every token of the folder's tokenizer has one of `num_rows` embeddings.

    So for a tokenizer that finds no token in a text, and for a chat template that is no Jinja.
    """
    tokenizer = load_tokenizer(folder)
    try:
        found, whole = tokenizer(PROBE, add_special_tokens=False)["input_ids"], tokenizer(PROBE)["input_ids"]
        # Without what the class of another tokenizer adds on its own: nobody has written it, and data that say it are refused.
        plain = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        largest = max([*plain.get_vocab().values(), *whole], default=0)
    except Exception as error:  # as above
        raise blamed_on_model("the tokenizer cannot be used", error) from error
    if not found:
        raise ModelError(f"the tokenizer is empty: it finds no token in {PROBE!r}", "model")
    check_token_id(largest, num_rows, plain)
    templates = tokenizer.chat_template or {}
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        check_template(template)


def check_token_id(largest: int, num_rows: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ModelError` for a token beyond the embeddings."""
    if largest >= num_rows:
        text = str(tokenizer.convert_ids_to_tokens(largest))[:100]
        raise ModelError(f"token {largest} of the tokenizer, {text!r}, is beyond the model's {num_rows} embeddings", "model")


def blamed_on_model(what: str, error: Exception) -> Exception:
    """Return what to raise for whatever a model's files have caused; a machine without memory or space is not their fault."""
    if is_allocation_failure(error) or is_disk_full(error):
        return error
    return ModelError(f"{what}: {str(error) or type(error).__name__}", "model")
