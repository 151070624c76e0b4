import torch

from tests.falqon_core.meld.noise import decoder_layer_noise, too_noisy


def test_a_melded_decoder_layer_stays_close_to_fp32() -> None:
    noise = decoder_layer_noise(torch.device("cpu"), hidden=128, num_tokens=192)
    assert len(noise) == 9
    assert too_noisy(noise) == {}
