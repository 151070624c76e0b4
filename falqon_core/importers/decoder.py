"""A check by its modules that a model is a decoder that training supports.

transformers builds it without memory for its weights (torch's meta device). Accepted is every
decoder of transformers whose layers hold the linears that `estimate.dimensions` counts, each an
`nn.Linear`, the experts, routers, gates and convolutions that it counts, and no other matrix: so
state spaces are refused, under any name. Soft caps, norms of queries and keys, scales and windows
are part of a model's own modules; that training computes them as transformers does,
`train.agreement` shows.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from falqon_core.contract.errors import ModelError, blamed_on_model
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.layer_kinds import LayerKind
from falqon_core.estimate.mixers import HYBRIDS

LAYER_TYPES = {"full_attention", "sliding_attention"}


def build_decoder(folder: Path, dimensions: ModelDimensions) -> PreTrainedModel:
    """Build the model of the folder's config.json on the meta device. Raises `ModelError` for
    anything else than a decoder of `dimensions`, which were read from the same config.json.
    """
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model_class = decoder_class(config)
        with torch.device("meta"):
            model = model_class(config)
    except ModelError:
        raise
    except Exception as error:  # An external config may raise any error.
        raise blamed_on_model("config.json describes no model that can be built", error) from error
    _check_modules(model, dimensions)
    return model


def decoder_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """Return transformers' class for a causal language model of this config. Raises `ModelError`
    where it has none, or one of layers that are not known here.
    """
    kind = config.model_type
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None or (model_class._is_stateful and kind not in HYBRIDS):
        raise _unsupported(kind, "transformers has no decoder of attention layers for it")
    if config.architectures not in (None, [], [model_class.__name__]):
        raise ModelError(
            f"architectures {config.architectures!r} is not supported; of a {kind} model it is "
            f"[{model_class.__name__!r}]"
        )
    if getattr(config, "clip_qkv", None) is not None:
        raise _unsupported(kind, "it clips queries, keys and values in place (clip_qkv)")
    known = LAYER_TYPES | {HYBRIDS.get(kind)}
    unknown = set(getattr(config, "layer_types", None) or ()) - known
    if unknown:
        raise _unsupported(kind, f"it has layers of the type {sorted(unknown)[0]!r}")
    return model_class


def _check_modules(model: PreTrainedModel, dimensions: ModelDimensions) -> None:
    kind = model.config.model_type
    layers = getattr(model.base_model, "layers", None)
    head = model.get_output_embeddings()
    if not isinstance(layers, nn.ModuleList) or len(layers) != dimensions.num_layers:
        raise _unsupported(kind, "its decoder layers are not one list")
    if not isinstance(head, nn.Linear) or head.bias is not None:
        raise _unsupported(kind, "its output head is no linear layer without a bias")
    if model.config.tie_word_embeddings != dimensions.tied_embeddings:
        raise _unsupported(kind, "config.json does not say whether its head is tied")
    found = Counter(_kind_of(kind, index, layer, dimensions) for index, layer in enumerate(layers))
    for number, layer_kind in enumerate(dimensions.layer_kinds):
        if found[number] != layer_kind.number:
            raise _unsupported(
                kind,
                f"{found[number]} of its layers have the linears "
                f"{_describe(layer_kind.linear_shapes)}, and not {layer_kind.number}",
            )


def _kind_of(kind: str, index: int, layer: nn.Module, dimensions: ModelDimensions) -> int:
    """Return the number of the kind, of those in `dimensions`, that a layer is of."""
    linears: dict[str, tuple[int, ...]] = {}
    has_experts = False
    convolutions: set[tuple[int, ...]] = set()
    for name, module in _matrices(layer):
        if dimensions.experts is not None and _is_routed(module, dimensions):
            has_experts = True
        elif isinstance(module, nn.Linear):
            linears[name.rpartition(".")[2]] = tuple(module.weight.shape)
        elif isinstance(module, nn.Conv1d) and dimensions.mixer is not None:
            convolutions.add(tuple(module.weight.shape))
        else:
            raise _unsupported(
                kind, f"{name} of layer {index} is a {type(module).__name__}, no nn.Linear"
            )
    found = linears, has_experts, convolutions
    for number, layer_kind in enumerate(dimensions.layer_kinds):
        if found == _expected(layer_kind, dimensions.hidden_size):
            return number
    raise _unsupported(
        kind,
        f"layer {index} has the linears {_describe(linears)}, and not "
        f"{_describe(dimensions.linear_shapes)}",
    )


def _expected(
    kind: LayerKind, hidden: int
) -> tuple[dict[str, tuple[int, int]], bool, set[tuple[int, ...]]]:
    """Return the linears of a layer, whether it has experts, and its convolutions."""
    convolutions: set[tuple[int, ...]] = set()
    if kind.mixer is not None:
        convolutions.add(kind.mixer.convolution(hidden))
    return kind.linear_shapes | kind.gate_shapes, kind.has_experts, convolutions


def _is_routed(module: nn.Module, dimensions: ModelDimensions) -> bool:
    """Check that a module is the router of a layer, or its experts all together, of the sizes in
    `dimensions`.
    """
    experts, hidden = dimensions.experts, dimensions.hidden_size
    assert experts is not None, "a dense model has none"
    shapes = {tuple(parameter.shape) for parameter in module.parameters(recurse=False)}
    if type(module).__name__.lower().endswith("topkrouter"):
        return (experts.num_experts, hidden) in shapes
    sizes = sorted((hidden, experts.intermediate_size))
    return hasattr(module, "_apply_gate") and any(
        len(shape) == 3 and shape[0] == experts.num_experts and sorted(shape[1:]) == sizes
        for shape in shapes
    )


def _matrices(layer: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules of a layer that hold parameters of two or more axes, by name."""
    for name, module in layer.named_modules():
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            yield name, module


def _describe(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())


def _unsupported(kind: str, reason: str) -> ModelError:
    return ModelError(f"model type {kind!r} is not supported: {reason}")
