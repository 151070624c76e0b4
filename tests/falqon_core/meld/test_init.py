import pytest
import torch

from falqon_core.meld import init
from tests.falqon_core.meld.models import tiny_model


def same_space(basis: torch.Tensor, other: torch.Tensor) -> float:
    """Smallest cosine between two row spaces of orthonormal rows: 1 when they are the same."""
    return torch.linalg.svdvals(basis @ other.t()).min().item()


def test_orthonormal_rows_depend_on_seed_and_name_alone() -> None:
    a = init.orthonormal("layer.q_proj", 24, 7, seed=3)
    torch.testing.assert_close(a @ a.t(), torch.eye(7), atol=1e-5, rtol=0)
    torch.manual_seed(99)
    assert torch.equal(a, init.orthonormal("layer.q_proj", 24, 7, seed=3))
    assert not torch.equal(a, init.orthonormal("layer.k_proj", 24, 7, seed=3))
    assert not torch.equal(a, init.orthonormal("layer.q_proj", 24, 7, seed=4))


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (20, 20)])
@pytest.mark.parametrize("scaled", [False, True])
def test_quant_error_takes_the_right_singular_vectors(shape: tuple[int, int], scaled: bool) -> None:
    error = torch.randn(shape) @ torch.diag(torch.logspace(0, -2, shape[1]))
    a = init.quant_error(error, 4, scaled)
    _, s, vh = torch.linalg.svd(error, full_matrices=False)
    expected = vh[:4] * (s[:4, None].sqrt() if scaled else 1.0)
    signs = (a * expected).sum(1, keepdim=True).sign()
    torch.testing.assert_close(a * signs, expected, atol=2e-3, rtol=2e-3)


def test_quant_error_of_a_higher_rank_than_there_are_directions() -> None:
    a = init.quant_error(torch.randn(3, 20), 5, scaled=False)
    assert a.shape == (5, 20)
    torch.testing.assert_close(a[:3] @ a[:3].t(), torch.eye(3), atol=1e-4, rtol=0)
    assert a[3:].eq(0).all()


def test_the_gradient_sketch_finds_the_gradients_directions_without_touching_the_model() -> None:
    model = tiny_model("llama", torch.float32)
    model.requires_grad_(False)
    name = "model.layers.1.mlp.up_proj"
    linear = model.get_submodule(name)
    input_ids, rank = (
        torch.randint(97, (3, 3)),
        9,
    )  # the gradient of nine tokens has rank nine at most
    with init.gradient_sketches(model, {name: linear}, rank, seed=0) as sketches:
        model(input_ids).logits.logsumexp(-1).sum().backward()
    a = init.top_right_singular_vectors(sketches[name], rank)

    linear.weight.requires_grad_(True)
    model(input_ids).logits.logsumexp(-1).sum().backward()
    truth = torch.linalg.svd(linear.weight.grad, full_matrices=False).Vh[:rank]
    assert same_space(a[:4], truth) > 0.99
    assert sketches[name].shape == (2 * rank, 40)
    assert not model.get_input_embeddings()(input_ids).requires_grad  # the hooks are gone
