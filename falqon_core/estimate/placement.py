"""The part of a memory plan that no bits depend on: what leaves the device of a process, and the
bytes that travel for it.
"""

from dataclasses import dataclass

from falqon_core.contract.config import Recipe
from falqon_core.estimate.dimensions import ModelDimensions

# Layers whose rows lie whole on a device of a sharded model (meld/sharded_layers.py).
LAYERS_GATHERED = 2
# Layers whose inputs lie on the device while all others are offloaded: the last, the one that is
# computed, and the one on its way (train/activation_offload.py).
LAYERS_NOT_OFFLOADED = 3


@dataclass(frozen=True, slots=True)
class Placement:
    """`offloads`: inputs of layers wait in host memory for their backward pass. `num_shards`:
    processes that keep a part of the weights each; 1: each keeps all.
    """

    offloads: bool = False
    num_shards: int = 1


WHOLE = Placement()


def gathered_bytes(dimensions: ModelDimensions, device_is_cpu: bool = False) -> int:
    """Return the bytes of all rows that one rank of a sharded model computes with: e4m3 codes, or
    on a CPU bf16 values.
    """
    return (2 if device_is_cpu else 1) * dimensions.num_linear_parameters


def wire_bytes(dimensions: ModelDimensions, placement: Placement, num_passes: int) -> int:
    """Return the bytes that each rank on a GPU receives in a step of so many passes, forward and
    backward together. Two layers are still there when the direction turns, either way.
    """
    if placement.num_shards == 1:
        return 0
    layers = max(0, dimensions.num_layers - LAYERS_GATHERED)
    of_layer = gathered_bytes(dimensions) // dimensions.num_layers
    num_gathers = 2 * num_passes * layers + min(LAYERS_GATHERED, dimensions.num_layers)
    return num_gathers * of_layer * (placement.num_shards - 1) // placement.num_shards


def offloaded_bytes(dimensions: ModelDimensions, recipe: Recipe, placement: Placement) -> int:
    """Return the bytes of host memory that each process offloads activations to: bf16 inputs of all
    layers but the last.
    """
    if not placement.offloads:
        return 0
    assert recipe.microbatch_tokens is not None, "fit the recipe to memory first"
    return 2 * recipe.microbatch_tokens * dimensions.hidden_size * (dimensions.num_layers - 1)
