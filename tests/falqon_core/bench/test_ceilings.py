import pytest
import torch

from falqon_core.bench.ceilings import CeilingSizes, measure_ceilings, require_gpu
from falqon_core.contract.errors import ConfigError


def test_a_machine_without_a_gpu_is_told_what_is_missing() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match="none to use here: ") as caught:
        require_gpu()
    assert caught.value.param == "device"
    assert ("install a CUDA build" if torch.version.cuda is None else "nvidia-smi") in str(
        caught.value
    )


def test_ceilings_are_rates() -> None:
    ceilings = measure_ceilings(torch.device("cpu"), 0, CeilingSizes(2**20, 64))
    assert ceilings.copy_bytes_per_second > 1e6
    assert ceilings.bf16_flops > 1e4
    assert ceilings.best_flops == (ceilings.fp8_flops or ceilings.bf16_flops)
