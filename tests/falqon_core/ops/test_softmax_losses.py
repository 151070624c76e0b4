import pytest
import torch

from falqon_core.ops.softmax_losses import softmax_losses, softmax_losses_triton
from tests.falqon_core.ops.devices import KERNEL_DEVICE


@pytest.mark.parametrize(("num_labels", "vocabulary"), [(1, 1), (3, 50), (2, 4096), (5, 9001)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_grad", [False, True])
def test_the_kernel_gives_losses_and_gradients_of_the_oracle(
    num_labels: int, vocabulary: int, dtype: torch.dtype, with_grad: bool
) -> None:
    torch.manual_seed(vocabulary)
    logits = (torch.randn(num_labels, vocabulary, device=KERNEL_DEVICE) * 5).to(dtype)
    labels = torch.randint(vocabulary, (num_labels,), device=KERNEL_DEVICE)
    logits[0, labels[0]] = 40.0
    losses, num_correct, grad = softmax_losses_triton(logits.clone(), labels, with_grad)
    expected, expected_correct, expected_grad = softmax_losses.oracle(
        logits.clone(), labels, with_grad
    )
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    assert num_correct == expected_correct >= 1
    assert (grad is not None) == (expected_grad is not None) == with_grad
    if grad is not None:
        assert grad.dtype == dtype
        torch.testing.assert_close(grad, expected_grad.to(dtype), rtol=2**-7, atol=1e-6)


def test_of_logits_that_are_equal_the_kernel_predicts_the_first() -> None:
    logits = torch.zeros(3, 5000, device=KERNEL_DEVICE)
    logits[:, [3, 4099]] = 2.0  # of one column of two blocks
    labels = torch.tensor([3, 4099, 0], device=KERNEL_DEVICE)
    _, num_correct, _ = softmax_losses_triton(logits, labels, False)
    assert num_correct == 1


def test_the_kernel_keeps_the_loss_of_an_improbable_label_finite() -> None:
    logits = torch.tensor([[400.0, -400.0]], device=KERNEL_DEVICE)
    labels = torch.tensor([1], device=KERNEL_DEVICE)
    losses, _, grad = softmax_losses_triton(logits, labels, True)
    assert losses.item() == pytest.approx(800.0)
    assert grad.tolist() == [[1.0, -1.0]]
