"""A model on which training and transformers disagree is refused before the first step."""

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, PreTrainedConfig, PreTrainedModel

from falqon_core.contract.errors import ModelError
from falqon_core.meld.token_mixers import mix_by_segment
from falqon_core.ops import attention
from falqon_core.train.agreement import check_agreement
from tests.falqon_core.families.models import FAMILIES, GEMMA, SIZES, random_model


def our_model(config: PreTrainedConfig) -> PreTrainedModel:
    model = random_model(config)
    model.set_attn_implementation(attention.ATTENTION_NAME)
    mix_by_segment(model)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees_and_keeps_its_attention(name: str) -> None:
    model = our_model(FAMILIES[name])
    check_agreement(model)
    assert model.config._attn_implementation == attention.ATTENTION_NAME


def test_a_model_whose_tokens_see_later_ones_is_refused() -> None:
    model = our_model(Gemma3TextConfig(**SIZES, **GEMMA, use_bidirectional_attention=True))
    with pytest.raises(ModelError, match="'gemma3_text' is not supported: training computes other"):
        check_agreement(model)


def test_logits_that_are_computed_otherwise_are_refused() -> None:
    model = our_model(LlamaConfig(**SIZES))
    model.config.final_logit_softcapping = 1.0  # which no Llama has
    with pytest.raises(ModelError, match="other logits"):
        check_agreement(model)


def test_numbers_that_are_none_are_left_to_the_loss() -> None:
    model = our_model(LlamaConfig(**SIZES))
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    check_agreement(model)
