import pytest
import torch
from torch.nn import functional as F

from falqon_core.ops import cross_entropy as module
from falqon_core.ops.cross_entropy import Head, cross_entropy, token_cross_entropy

WEIGHT = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("num_labels", "vocabulary"), [(1, 5), (7, 11), (130, 1000)])
@pytest.mark.parametrize("chunk_rows", [1, 4, 10_000])
def test_loss_accuracy_and_gradient_match_torch(
    num_labels: int, vocabulary: int, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_LOGITS", vocabulary * chunk_rows)
    hidden = torch.randn(num_labels, 16, requires_grad=True)
    weight = torch.randn(vocabulary, 16)
    labels = torch.randint(vocabulary, (num_labels,))
    same = hidden.detach().clone().requires_grad_()

    loss, num_correct = cross_entropy(hidden, Head(weight), labels)
    logits = same @ weight.t()
    expected = F.cross_entropy(logits, labels, reduction="sum")

    torch.testing.assert_close(loss, expected)
    assert num_correct == (logits.argmax(-1) == labels).sum()
    (loss / 3).backward()
    (expected / 3).backward()
    torch.testing.assert_close(hidden.grad, same.grad, rtol=1e-4, atol=1e-5)


def test_an_improbable_label_has_a_finite_loss() -> None:
    hidden = torch.tensor([[1.0]])
    weight = torch.tensor([[400.0], [-400.0]])
    loss, _ = cross_entropy(hidden, Head(weight), torch.tensor([1]))
    assert loss.item() == pytest.approx(800.0)


def test_no_gradient_is_computed_for_evaluation() -> None:
    with torch.no_grad():
        loss, _ = cross_entropy(
            torch.randn(3, 4, requires_grad=True),
            Head(torch.randn(5, 4)),
            torch.zeros(3, dtype=torch.int64),
        )
    assert not loss.requires_grad


def test_bf16_follows_transformers_rounding() -> None:
    hidden = torch.randn(40, 32).bfloat16()
    weight = torch.randn(300, 32).bfloat16()
    labels = torch.randint(300, (40,))
    loss, _ = cross_entropy(hidden, Head(weight), labels)
    torch.testing.assert_close(
        loss, F.cross_entropy((hidden @ weight.t()).float(), labels, reduction="sum")
    )


@pytest.mark.parametrize("chunk_rows", [1, 4, 10_000])
def test_each_position_has_its_loss_and_takes_its_own_weight_in_backward(
    chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_LOGITS", 50 * chunk_rows)
    hidden = torch.randn(9, 16, requires_grad=True)
    weight = torch.randn(50, 16)
    labels = torch.randint(50, (9,))
    same = hidden.detach().clone().requires_grad_()

    losses, _ = token_cross_entropy(hidden, Head(weight), labels)
    expected = F.cross_entropy(same @ weight.t(), labels, reduction="none")

    torch.testing.assert_close(losses, expected)
    weights = torch.randn(9)
    (losses * weights).sum().backward()
    (expected * weights).sum().backward()
    torch.testing.assert_close(hidden.grad, same.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "head", [Head(WEIGHT, scale=0.125), Head(WEIGHT, cap=3.0), Head(WEIGHT, 0.5, 2.0)]
)
@pytest.mark.parametrize("chunk_rows", [4, 10_000])
def test_scaled_and_capped_logits_match_torch(
    head: Head, chunk_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_LOGITS", 50 * chunk_rows)
    hidden = torch.randn(9, 16, requires_grad=True)
    labels = torch.randint(50, (9,))
    same = hidden.detach().clone().requires_grad_()

    loss, num_correct = cross_entropy(hidden, head, labels)
    logits = head.scale * (same @ head.weight.t())
    if head.cap is not None:
        logits = head.cap * torch.tanh(logits / head.cap)
    expected = F.cross_entropy(logits, labels, reduction="sum")

    torch.testing.assert_close(loss, expected)
    assert num_correct == (logits.argmax(-1) == labels).sum()
    loss.backward()
    expected.backward()
    torch.testing.assert_close(hidden.grad, same.grad, rtol=1e-4, atol=1e-5)
