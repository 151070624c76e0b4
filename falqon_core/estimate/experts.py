"""The routed experts of a mixture, read from its config.json. None of them trains, nor does the
router; of each token a few experts compute.
"""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict

from falqon_core.contract.model_folder import EXPERT_FORMAT, EXPERT_KEYS, MIXTURES, MXFP4

MAX_EXPERTS = 4_096
MXFP4_BLOCK = 32  # weights of a row with a scale of one byte
# Where experts have a width of their own; elsewhere it is that of the MLP in their place.
WIDTH_KEYS = dict.fromkeys(("glm4_moe", "qwen3_5_moe_text", "qwen3_moe"), "moe_intermediate_size")
Count = Callable[..., int]  # (config, key, most, default=None)


class Experts(BaseModel):
    """Sizes of the experts in each layer that has any; every field is a count."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_experts: int
    num_active: int  # for one token
    intermediate_size: int
    num_dense_layers: int = 0  # layers with an MLP in the place of experts
    shared_intermediate_size: int = 0  # of an MLP beside the experts, which every token passes
    has_biases: bool = False
    is_mxfp4: bool = False  # weights that came in that form, and are kept in it
    has_shared_gate: bool = False  # a linear of one output beside them, which does not train

    def num_weights(self, hidden: int) -> int:
        """Count the weights of one expert: gate, up and down."""
        return 3 * self.intermediate_size * hidden

    def num_rows(self, hidden: int) -> int:
        """Count the rows of one expert's weights, each of which has a scale."""
        return 2 * self.intermediate_size + hidden

    def num_others(self, hidden: int) -> int:
        """Count the other frozen parameters of a layer: the router, and biases."""
        router = self.num_experts * hidden
        if not self.has_biases:
            return router
        return router + self.num_experts * (1 + self.num_rows(hidden))

    def layer_bytes(self, hidden: int) -> int:
        """Return the bytes that a layer's frozen parameters take while training: weights in e4m3
        with a scale in fp32 for each row, or in MXFP4, the others in fp32 at most.
        """
        of_expert = self.num_weights(hidden) + 4 * self.num_rows(hidden)
        if self.is_mxfp4:
            of_expert = self.num_weights(hidden) // 2 + self.num_weights(hidden) // MXFP4_BLOCK
        return self.num_experts * of_expert + 4 * self.num_others(hidden)


def read_experts(config: dict[str, Any], num_layers: int, count: Count) -> Experts | None:
    """Read them from a parsed config.json; None of a model that has none. `count` reads one bounded
    number and raises `ValueError` for another value.
    """
    kind = config.get("model_type")
    if kind not in MIXTURES:
        return None
    key = next((key for key in EXPERT_KEYS if config.get(key) is not None), EXPERT_KEYS[0])
    num_experts = count(config, key, MAX_EXPERTS)
    num_active = count(config, "num_experts_per_tok", num_experts)
    width = count(config, WIDTH_KEYS.get(kind, "intermediate_size"), 2**20)
    shared = 0
    if kind == "glm4_moe":
        shared = width * count(config, "n_shared_experts", 64, 1)
    if kind == "qwen3_5_moe_text":
        shared = count(config, "shared_expert_intermediate_size", 2**20, 512)
    return Experts(
        num_experts=num_experts,
        num_active=num_active,
        intermediate_size=width,
        num_dense_layers=_num_dense_layers(config, num_layers),
        shared_intermediate_size=shared,
        has_biases=kind == "gpt_oss",
        is_mxfp4=_is_mxfp4(config, width),
        has_shared_gate=kind == "qwen3_5_moe_text",
    )


def _is_mxfp4(config: dict[str, Any], width: int) -> bool:
    described = config.get(EXPERT_FORMAT)
    if described is None:
        return False
    if described != MXFP4:
        raise ValueError(f"{EXPERT_FORMAT} is {described!r:.40}, and not {MXFP4!r}")
    if width % MXFP4_BLOCK or config["hidden_size"] % MXFP4_BLOCK:
        raise ValueError(f"experts in MXFP4 have inputs in blocks of {MXFP4_BLOCK}")
    return True


def _num_dense_layers(config: dict[str, Any], num_layers: int) -> int:
    if config["model_type"] == "glm4_moe":
        first = config.get("first_k_dense_replace", 1)
        if type(first) is not int or not 0 <= first <= num_layers:
            raise ValueError(f"first_k_dense_replace is {first!r:.40}, with {num_layers} layers")
        return first
    if config["model_type"] != "qwen3_moe":
        return 0
    step = config.get("decoder_sparse_step", 1)
    dense = config.get("mlp_only_layers") or []
    if type(step) is not int or step < 1:
        raise ValueError(f"decoder_sparse_step is {step!r:.40}, and not a whole number from 1")
    if not isinstance(dense, list):
        raise ValueError(f"mlp_only_layers is {dense!r:.40}, and not a list of layers")
    return sum(layer in dense or (layer + 1) % step != 0 for layer in range(num_layers))
