import torch
from torch import nn

from falqon_core.meld.linear import MeldedLinear, meld
from falqon_core.meld.update import Anchored
from falqon_core.ops.quantize import quantize_rows


def melded(
    num_outputs: int = 23,
    num_inputs: int = 37,
    rank: int = 5,
    dtype: torch.dtype = torch.bfloat16,
    simulate_fp8: bool = False,
    trains_a: bool = False,
) -> MeldedLinear:
    torch.manual_seed(1)
    linear = nn.Linear(num_inputs, num_outputs, dtype=dtype).requires_grad_(False)
    (layer,) = meld([linear], rank, 0.5, simulate_fp8=simulate_fp8, trains_a=trains_a)
    with torch.no_grad():
        layer.delta.normal_(std=0.1)
        Anchored().start(
            layer, linear.weight, torch.linalg.qr(torch.randn(num_inputs, rank))[0].t()
        )
    return layer


def test_the_rows_are_the_dequantized_codes_bit_for_bit() -> None:
    layer = melded()
    qdata, scale = layer.quantized_weight()
    assert qdata.dtype == torch.float8_e4m3fn
    assert scale.dtype == torch.float32
    assert qdata.shape == (23, 37)
    assert scale.shape == (23, 1)
    assert torch.equal((qdata.float() * scale).bfloat16(), layer.weight)
    assert torch.equal((qdata.float() * scale), layer.weight.float())  # nothing was lost to bf16


def test_the_output_is_that_of_the_folded_weight() -> None:
    layer = melded(dtype=torch.float32)
    x = torch.randn(2, 3, 37)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_gradients_are_those_of_folding_the_delta() -> None:
    layer = melded(dtype=torch.float32)
    x = torch.randn(2, 3, 37, requires_grad=True)
    grad = torch.randn(2, 3, 23)
    delta = layer.delta.detach().clone().requires_grad_()
    weight = layer.weight + layer.scaling * (delta - layer.delta.detach()) @ layer.a
    expected = torch.autograd.grad(nn.functional.linear(x, weight, layer.bias), [x, delta], grad)
    ours = torch.autograd.grad(layer(x), [x, layer.delta], grad)
    for actual, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(actual, other)


def test_gradients_with_a_are_those_of_folding_the_product() -> None:
    layer = melded(dtype=torch.float32, trains_a=True)
    x = torch.randn(6, 37, requires_grad=True)
    grad = torch.randn(6, 23)
    delta = layer.delta.detach().clone().requires_grad_()
    a = layer.a.clone().requires_grad_()
    folded = layer.scaling * (delta @ a - layer.delta.detach() @ layer.a)
    output = nn.functional.linear(x, layer.weight + folded, layer.bias)
    expected = torch.autograd.grad(output, [x, delta, a], grad)
    ours = torch.autograd.grad(layer(x), [x, layer.delta, layer.a_master], grad)
    for actual, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(actual, other)


def test_an_a_that_trains_is_rounded_from_its_master_after_a_step() -> None:
    layer = melded(trains_a=True)
    with torch.no_grad():
        layer.a_master.normal_(std=0.1)
    Anchored().after_step(layer)
    assert torch.equal(layer.a.float(), quantize_rows(layer.a_master.detach())[0])


def test_backward_with_a_keeps_the_input_that_is_there() -> None:
    layer = melded(num_outputs=64, num_inputs=512, rank=4, trains_a=True)
    x = torch.randn(100, 512, dtype=torch.bfloat16, requires_grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    present = {layer.delta.data_ptr(), x.data_ptr()}
    copied = [t.untyped_storage().nbytes() for t in saved if t.data_ptr() not in present]
    assert copied == [100 * 4 * 2]


def test_backward_keeps_no_input() -> None:
    layer = melded(num_outputs=64, num_inputs=512, rank=4)
    x = torch.randn(100, 512, dtype=torch.bfloat16, requires_grad=True)
    saved: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        layer(x)
    assert [tuple(t.shape) for t in saved] == [(100, 4)]
    # and no larger tensor hides behind the view
    assert saved[0].untyped_storage().nbytes() == 100 * 4 * 2


def test_an_input_without_gradient_gets_none() -> None:
    layer = melded()
    x = torch.randn(3, 37, dtype=torch.bfloat16)
    layer(x).sum().backward()
    assert x.grad is None
    assert layer.delta.grad is not None


def test_simulated_fp8_rounds_activations_and_gradients_per_token() -> None:
    layer = melded(dtype=torch.float32, simulate_fp8=True)
    x = torch.randn(6, 37, requires_grad=True)
    grad = torch.randn(6, 23)
    output = layer(x)
    rounded = quantize_rows(x.detach())[0]
    torch.testing.assert_close(output, rounded @ layer.weight.t() + layer.bias)
    output.backward(grad)
    qdata, scale = layer.quantized_weight()
    grad_rounded = quantize_rows(grad * scale.t())[0]
    torch.testing.assert_close(x.grad, grad_rounded @ qdata.float())
    torch.testing.assert_close(
        layer.delta.grad, layer.scaling * (grad_rounded / scale.t()).t() @ (rounded @ layer.a.t())
    )
    noise = (x.grad - grad @ layer.weight).norm() / (grad @ layer.weight).norm()
    assert 0 < noise < 0.1


def test_nothing_of_it_enters_a_state_dict_but_the_trained_and_the_bias() -> None:
    assert set(melded().state_dict()) == {"delta", "bias"}
