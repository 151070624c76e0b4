import torch

from falqon_core.ops.dispatch import operator


def test_a_kernel_takes_over_for_its_device_only() -> None:
    @operator
    def double(x: torch.Tensor, extra: float = 0.0) -> torch.Tensor:
        return 2 * x + extra

    double.kernels["meta"] = lambda x, extra=0.0: x

    assert double(torch.ones(1), extra=1.0).item() == 3.0
    on_meta = torch.ones(1, device="meta")
    assert double(on_meta) is on_meta
