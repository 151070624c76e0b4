"""compressed-tensors' description of a trained checkpoint, in its config.json."""

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from falqon_core.contract.block_weights import BLOCK_SPECS, Weights

_COMMON: dict[str, Any] = {
    "symmetric": True,
    "group_size": None,
    "block_structure": None,
    "actorder": None,
}
_WEIGHTS = {"dynamic": False, "observer": "minmax", "observer_kwargs": {}}


def quantization_config(ignore: Iterable[str], weights: Weights = "fp8") -> dict[str, Any]:
    """Describe linears in that form; `ignore` names those left in bf16."""
    activations = None
    if weights == "fp8":
        folder = "float-quantized"
        eight_bits = _COMMON | {"num_bits": 8, "type": "float"}
        of_weights = eight_bits | _WEIGHTS | {"strategy": "channel"}
        activations = eight_bits | {
            "strategy": "token",
            "dynamic": True,
            "observer": None,
            "observer_kwargs": {},
        }
    else:
        folder = BLOCK_SPECS[weights].folder
        group = {"group_size": BLOCK_SPECS[weights].block}
        of_weights = _COMMON | _WEIGHTS | group | dict(BLOCK_SPECS[weights].arguments)
    return {
        "quant_method": "compressed-tensors",
        "format": folder,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list(ignore),
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": of_weights,
                "input_activations": activations,
                "output_activations": None,
            }
        },
    }


def growth_in_bf16(config: Mapping[str, Any]) -> int:
    """Return how many times the bytes of a model, with that config.json, it may take in bf16."""
    return 2 if weights_of(config) in (None, "fp8", "q8_0") else 4


def weights_of(config: Mapping[str, Any]) -> Weights | None:
    """Return the form of the weights that a parsed config.json describes, None where no training
    here has written it.
    """
    described = config.get("quantization_config")
    if not isinstance(described, dict):
        return None
    ignore = described.get("ignore")
    if not isinstance(ignore, list):
        return None
    forms: tuple[Weights, ...] = get_args(Weights)
    return next((form for form in forms if described == quantization_config(ignore, form)), None)
