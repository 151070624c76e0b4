"""Checks that the parts of a model fit one another: its config, its tensors, its tokenizer and its
chat template; and that its generation config can be read.

The tensors of a config are not derived here: transformers' own names and shapes (`decoder`) are
compared with those in the files. Tensors that it has no place for are ignored, as it does; those
that it has a place for hold floats, and no codes of a quantization. The numbers in the weights are
not checked; only training will see them.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from falqon_core.contract.errors import ModelError, blamed_on_model
from falqon_core.data.chat_template import check_template
from falqon_core.importers.published_names import published
from falqon_core.importers.tokenizer import load_tokenizer

MOST_MISSING = 1_000  # Tensors that are counted.
EXPERTS = ".experts."  # In the names of tensors that hold all experts of a layer, or one of them.
FLOAT_DTYPES = ("BF16", "F16", "F32", "F64")  # As safetensors names them.
PROBE_TEXT = "a"  # Any tokenizer that can read a data set has a token for it.


def check_tensors(model: PreTrainedModel, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise `ModelError` unless `shapes` are those of the tensors of `model`."""
    prefix = f"{model.base_model_prefix}."
    missing = []
    for name, tensor in _expected_tensors(model, shapes.keys()):
        expected = tuple(tensor.shape)
        # The bare decoder is saved without its prefix.
        actual = shapes.get(name, shapes.get(name.removeprefix(prefix)))
        if actual is None:
            missing += [] if name in model.all_tied_weights_keys else [name]
            if len(missing) == MOST_MISSING:  # A config may promise millions of experts.
                break
        elif actual != expected:
            raise ModelError(
                f"{name} has the shape {list(actual)}, but config.json makes it {list(expected)}"
            )
    if missing:  # transformers would train on random numbers there
        raise ModelError(
            f"the model's files lack {len(missing)} tensors, the first is {sorted(missing)[0]}"
        )


def check_dtypes(model: PreTrainedModel, dtypes: Mapping[str, str]) -> None:
    """Raise `ModelError` for a tensor of `model` that is not in floats in its files: codes are no
    weights without their scales. `dtypes` are those of headers of safetensors files.
    """
    prefix = f"{model.base_model_prefix}."
    for name, tensor in _expected_tensors(model, dtypes.keys()):
        dtype = dtypes.get(name, dtypes.get(name.removeprefix(prefix)))
        if dtype is not None and dtype not in FLOAT_DTYPES and tensor.is_floating_point():
            raise ModelError(
                f"{name} is in {dtype}, and config.json describes no quantization that gives its "
                "scales; export the model in bf16 first, and import that"
            )


def _expected_tensors(
    model: PreTrainedModel, names: AbstractSet[str]
) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors that files with tensors of these `names` should hold: a mixture's experts
    all together, as transformers has them, or as they are published.
    """
    own = model.state_dict()
    experts = {name: tensor for name, tensor in own.items() if EXPERTS in name}
    if names >= experts.keys():
        yield from own.items()
        return
    others = {name: tensor for name, tensor in own.items() if name not in experts}
    yield from published(model, others).items()
    for name, tensor in experts.items():
        yield from published(model, {name: tensor}).items()


def check_generation(folder: Path) -> None:
    """Raise `ModelError` for a generation_config.json with which transformers loads no model."""
    if (folder / "generation_config.json").is_file():
        try:
            GenerationConfig.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # The file may hold anything.
            raise blamed_on_model("generation_config.json cannot be used", error) from error


def check_tokenizer(folder: Path, num_rows: int) -> None:
    """Raise `ModelError` unless every token of the folder's tokenizer has one of `num_rows`
    embeddings.

    Raise it as well for a tokenizer that finds no token in a text, and for a chat template that is
    no Jinja.
    """
    tokenizer = load_tokenizer(folder)
    try:
        tokens = tokenizer(PROBE_TEXT, add_special_tokens=False)["input_ids"]
        whole = tokenizer(PROBE_TEXT)["input_ids"]
        # Tokens that the class of another tokenizer adds on its own are not counted: no text has
        # them, and data that contain them are refused.
        plain = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        largest = max([*plain.get_vocab().values(), *whole], default=0)
    except Exception as error:  # An external tokenizer may raise any error.
        raise blamed_on_model("the tokenizer cannot be used", error) from error
    if not tokens:
        raise ModelError(f"the tokenizer is empty: it finds no token in {PROBE_TEXT!r}")
    check_token_id(largest, num_rows, plain)
    templates = tokenizer.chat_template or {}
    for template in templates.values() if isinstance(templates, dict) else [templates]:
        check_template(template)


def check_token_id(largest: int, num_rows: int, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ModelError` for a token beyond the embeddings."""
    if largest >= num_rows:
        text = str(tokenizer.convert_ids_to_tokens(largest))[:100]
        raise ModelError(
            f"token {largest} of the tokenizer, {text!r}, is beyond the model's {num_rows} "
            "embeddings"
        )
