from typing import Any

import pytest
from pydantic import ValidationError

from falqon_core.contract.config import Recipe
from falqon_core.contract.methods import METHOD_SPECS
from falqon_core.contract.recipe_options import RecipeOptions


def test_every_option_of_a_method_is_a_field_of_a_recipe() -> None:
    options = {option for spec in METHOD_SPECS.values() for option in spec.options}
    assert options <= set(RecipeOptions.model_fields)


@pytest.mark.parametrize(
    ("recipe", "option"),
    [
        ({"method": "qlora", "update_rule": "topk"}, "update_rule"),
        ({"method": "lora", "a_init": "orthonormal"}, "a_init"),
        ({"method": "fishman", "base_copy": "none"}, "base_copy"),
        ({"method": "falqon", "group_size": 64}, "group_size"),
        ({"method": "qa_lora", "quantizer": "int4"}, "quantizer"),
        ({"method": "fp8_lora", "weight_format": "e2m3"}, "weight_format"),
        ({"method": "lora", "adapters_fp8": True}, "adapters_fp8"),
        ({"method": "ir_lora", "group_size": 64}, "group_size"),
    ],
)
def test_an_option_that_the_method_does_not_have_is_refused_by_name(
    recipe: dict[str, Any], option: str
) -> None:
    with pytest.raises(ValidationError, match=f"{option}: "):
        Recipe.model_validate(recipe)


@pytest.mark.parametrize("method", METHOD_SPECS)
def test_a_resolved_recipe_can_be_read_again(method: str) -> None:
    recipe = Recipe.model_validate({"method": method}).resolved(100)
    assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_like_trainings_have_one_kind() -> None:
    kinds = [
        Recipe.model_validate(fields).kind
        for fields in (
            {},
            {"objective": "dpo"},
            {"method": "qlora"},
            {"method": "qlora", "objective": "dpo"},
        )
    ]
    assert kinds == ["falqon", "dpo", "qlora", "qlora+dpo"]
