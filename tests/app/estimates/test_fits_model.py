from typing import Any

import pytest

from app.base.errors import InvalidRequest
from app.estimates.service import check_fits_model
from falqon_core.contract.config import Recipe

# The first layer has an MLP of 2,752, and the others a shared expert of 384.
MIXTURE = {
    "model_type": "glm4_moe", "hidden_size": 1024, "intermediate_size": 2752, "vocab_size": 1000,
    "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128,
    "moe_intermediate_size": 384, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    "max_position_embeddings": 512,
}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"method": "ir_lora", "rank": 128},
            r"falqon.rank: .* 128 does not divide the 1024 inputs and 2752 outputs of gate_proj; "
            "ranks that fit all linears: 1, 2, 4, 8, 16, 32, 64$",
        ),
        (
            {"method": "qa_lora", "group_size": 128},
            r"falqon.group_size: 128 does not divide the 2752 inputs of down_proj; .*: 8, 16, 32",
        ),
    ],
)
def test_what_some_layers_cannot_be_cut_into_is_refused(
    options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidRequest, match=reason) as caught:
        check_fits_model(MIXTURE, Recipe.model_validate(options))
    assert caught.value.param == reason.partition(":")[0]
    check_fits_model(MIXTURE, Recipe.model_validate({"method": options["method"], "rank": 64}))
