import torch

from falqon_core.contract.config import Recipe
from falqon_core.methods.fp6_lora import Fp6Lora
from falqon_core.ops.formats.fp6 import FORMATS


def test_it_computes_with_the_format_that_its_recipe_names() -> None:
    weight = torch.randn(12, 50, generator=torch.Generator().manual_seed(0)).bfloat16()
    for name, format in FORMATS.items():
        recipe = Recipe(method="fp6_lora", rank=4, weight_format=name).resolved(10)
        base = Fp6Lora(recipe).create_base("down_proj", weight, {})
        scaled = base.dequantize().float() / (weight.float().abs().amax(1, True) / format.max_value)
        distances = (scaled[..., None] - format.values).abs().amin(-1)
        assert (distances <= scaled.abs() / 256).all(), "rounded to bf16 and no more"
