"""The choice of A [r, I] for one linear, before it is itself rounded to e4m3.

orthonormal: r random orthonormal rows, keyed by seed and layer name.
quant_error: the top-r right singular vectors V_r of the rounding error E = W - dequant(W_q), from
             the eigenvectors of the smaller Gram matrix of E. The published rule takes
             sqrt(S_r) V_r^T, the anchored one V_r^T itself.
gradient:    the top-r right singular vectors of the weight gradient of a few microbatches. The
             gradient G [O, I] is never formed: with a random Omega [2r, O], the sketch Omega . G =
             sum over tokens of (Omega . dy) x^T is [2r, I], and its leading right singular vectors
             are those of G up to the usual error of a randomized range finder (Halko, Martinsson,
             Tropp 2011).
What is given up: quant_error takes an eigendecomposition per layer, seconds each at 7B's widths;
orthonormal is free. Omega waits in host memory and comes to the device for each gradient, because
drawing it anew each time would take longer than the pass.
"""

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from falqon_core.ops.matmul import matmul

OVERSAMPLING = 2


def orthonormal(name: str, num_inputs: int, rank: int, seed: int) -> Tensor:
    """-> fp32 [rank, num_inputs] with orthonormal rows; rank <= num_inputs."""
    # [I, r] with orthonormal columns; drawn on the CPU in fp32, so every device gets the same A.
    columns, _ = torch.linalg.qr(torch.randn(num_inputs, rank, generator=generator_of(name, seed)))
    return columns.t().contiguous()


def quant_error(error: Tensor, rank: int, scaled: bool) -> Tensor:
    """error fp32 [O, I] -> V_r^T fp32 [rank, I], or sqrt(S_r) V_r^T when `scaled`. Directions
    beyond min(O, I) are zero rows.
    """
    num_outputs, num_inputs = error.shape
    k = min(rank, num_outputs, num_inputs)
    if num_inputs <= num_outputs:
        # Eigenvalues are squared singular values, ascending: the last k columns are the leading
        # ones.
        squares, vectors = torch.linalg.eigh(error.t() @ error)
        right = vectors[:, -k:].flip(1).t()
    else:
        squares, vectors = torch.linalg.eigh(error @ error.t())
        # U_k^T E = S_k V_k^T, so its rows divided by their norms are V_k^T.
        right = vectors[:, -k:].flip(1).t() @ error
        right = right / right.norm(dim=1, keepdim=True).clamp_min(1e-30)
    if scaled:
        # The fourth root of an eigenvalue is the square root of its singular value.
        right = right * squares[-k:].flip(0).clamp_min(0).pow(0.25)[:, None]
    return torch.cat([right, right.new_zeros(rank - k, num_inputs)])


def top_right_singular_vectors(sketch: Tensor, rank: int) -> Tensor:
    """sketch fp32 [2r, I] -> [rank, I] orthonormal rows, most important first."""
    return torch.linalg.svd(sketch, full_matrices=False).Vh[:rank].contiguous()


@contextmanager
def gradient_sketches(
    model: nn.Module, linears: dict[str, nn.Linear], rank: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Let every backward pass through `model` within the context add to one sketch [2 * rank, I]
    (fp32) per named linear.

    The model may be entirely frozen: the embeddings' output is made to require a gradient.
    """
    # The weights may lie elsewhere and come as they are needed, so their device tells nothing.
    device = model.get_input_embeddings().weight.device
    sketches = {
        name: torch.zeros(OVERSAMPLING * rank, linear.in_features, device=device)
        for name, linear in linears.items()
    }

    def watch(
        sketch: Tensor, omega: Tensor
    ) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            watched: Tensor = _Watched.apply(output, inputs[0].detach(), sketch, omega)
            return watched

        return hook

    handles = [
        model.get_input_embeddings().register_forward_hook(
            lambda _m, _i, output: output.requires_grad_()
        )
    ]
    for name, linear in linears.items():
        # Omega^T [O, 2r] in the weight's dtype, as the gradients dy that it multiplies; on the CPU.
        omega = torch.randn(
            linear.out_features, OVERSAMPLING * rank, generator=generator_of(name, seed)
        ).to(linear.weight.dtype)
        handles.append(linear.register_forward_hook(watch(sketches[name], omega)))
    try:
        yield sketches
    finally:
        for handle in handles:
            handle.remove()


class _Watched(torch.autograd.Function):
    """(y [.., O], x [.., I], sketch, omega) -> y, whose gradient adds to the sketch. x is saved as
    autograd saves tensors, so that checkpointed activations do not keep it.
    """

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, sketch: Tensor, omega: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.sketch = sketch
        ctx.omega = omega
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        # ([T, O] . [O, 2r])^T . [T, I] -> [2r, I]; G itself, [O, I], is never formed.
        through_omega = matmul(grad.flatten(0, -2), ctx.omega.to(grad.device))
        ctx.sketch.add_(matmul(through_omega.t(), x.flatten(0, -2)))
        return grad, None, None, None


def generator_of(name: str, seed: int) -> torch.Generator:
    """Return a generator that the layer's name keys, so that one layer's A does not depend on which
    others are melded; torch's CPU generator takes 32 bits.
    """
    return torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
