"""Checks of `doctor` on the device: kernels against their oracles, products at a model's own sizes,
attention and a step against known results, and a plan of the memory.

On a CPU the same attention and step are tried, and what needs a card is named. A check takes a
fraction of a second on a card, plus what Triton compiles the first time; figures are rough (a few
calls each), `bench` measures them properly.
"""

from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig

from falqon_core.bench.kernels import LINES, KernelDraw, KernelLine, Shapes, measure_kernel
from falqon_core.bench.model import dimensions_of, llama_7b, random_model
from falqon_core.bench.steps import StepSetup, workloads
from falqon_core.bench.timing import median_seconds, what_went_wrong
from falqon_core.contract.block_weights import Weights, title_of
from falqon_core.contract.config import Recipe
from falqon_core.contract.diagnosis import Check, Measurement, Skipped
from falqon_core.contract.model_folder import read_config
from falqon_core.estimate.cards import FP8_CAPABILITY, native_weights
from falqon_core.estimate.dimensions import ModelDimensions
from falqon_core.estimate.memory import (
    largest_fitting,
    plan_memory,
    training_memory_bytes,
    usable_bytes,
)
from falqon_core.methods.falqon import Falqon
from falqon_core.objectives.supervised import Supervised
from falqon_core.ops.attention import falqon_attention
from falqon_core.ops.dispatch import faults_on
from falqon_core.ops.gemm_choice import GemmShape
from falqon_core.ops.samples import sqnr_db
from falqon_core.ops.scaled_mm import ALIGNMENT, GEMMS, gemm_for, has_fp8_gemm, scaled_mm
from falqon_core.ops.self_check import MIN_SQNR_DB
from falqon_core.train.gpu_needs import describe_faults
from falqon_core.train.memory import available_bytes
from falqon_core.train.optimizer import Optimizer
from falqon_core.train.step import StepBatch, train_step

SMALL_SHAPES = Shapes(tokens=96, hidden=256, intermediate=512, rank=16, update_rows=4)
SHAPES_7B = Shapes(tokens=2048)
MEASURED_SECONDS = 0.02  # Seconds of calls for each figure.
MIN_ATTENTION_DB = 34.0  # 2 %; bf16 probabilities give more than 40
# Two steps with the same roundings and other orders of addition: the losses are closer than this,
# and what the first step changes is more.
MAX_LOSS_RATIO = 0.02
TWO_LAYER_SETUP = StepSetup(
    LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
    ),
    rank=16,
    num_records=4,
    record_tokens=64,
)
CHECK_LEARNING_RATE = 0.02


def device_checks(model: Path | None) -> Iterator[tuple[str, Check]]:
    """Yield the checks of this machine's device, the most telling first."""
    name, dimensions = choose_dimensions(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    yield f"memory for {name}", partial(check_memory, dimensions, device, must_fit=bool(model))
    yield "forms of weights", partial(check_weights, device)
    yield "attention", partial(check_attention, device)
    if device.type == "cpu":
        yield "training step", check_step_on_cpu
        yield "what needs a GPU", skip_card
        return
    yield "operators", partial(check_operators, device)
    yield "training step", partial(check_step_on_card, device)
    for (outputs, inputs), linears in distinct_shapes(dimensions).items():
        title = f"FP8 products {outputs} x {inputs} ({linears})"
        yield title, partial(check_products, outputs, inputs, device)
    for size, shapes in (("small", SMALL_SHAPES), ("7B", SHAPES_7B)):
        for line in LINES:
            yield f"{line.name}, {size}", partial(check_kernel, line, shapes, device)


def choose_dimensions(model: Path | None) -> tuple[str, ModelDimensions]:
    """Return the dimensions to try, with a name. Raises `ModelError` where config.json has none."""
    if model is None:
        return "Llama-7B", dimensions_of(llama_7b())
    return model.name, ModelDimensions.from_config(read_config(model))


def distinct_shapes(dimensions: ModelDimensions) -> dict[tuple[int, int], str]:
    """Return [O, I] of the linears, rounded up to sizes of FP8 products, with their names."""
    names: dict[tuple[int, int], list[str]] = {}
    for name, (outputs, inputs) in dimensions.linear_shapes.items():
        shape = (_round_up(outputs), _round_up(inputs))
        names.setdefault(shape, []).append(name.removesuffix("_proj"))
    return {shape: ", ".join(members) for shape, members in names.items()}


def check_memory(dimensions: ModelDimensions, device: torch.device, must_fit: bool) -> str:
    """Plan the published training (rank 64, 16 records of 528 tokens) in what is free now."""
    options = {"rank": 64, "batch_size": 16, "max_seq_length": 528, "a_init": "orthonormal"}
    recipe = Recipe.model_validate(options).resolved(16)
    is_cpu = device.type == "cpu"
    if not is_cpu:
        dimensions = dimensions.model_copy(update={"has_fp8": has_fp8_gemm(device)})
    usable = usable_bytes(available_bytes(device))
    if plan := plan_memory(dimensions, recipe, usable, is_cpu):
        chosen = plan.recipe
        needed = training_memory_bytes(dimensions, chosen, is_cpu, plan.placement)
        again = "recomputed" if chosen.activation_checkpointing else "kept"
        fits = f"fits: {_gib(needed)} of {_gib(usable)} usable GiB"
        return f"{fits}, {chosen.microbatch_tokens} tokens at a time, activations {again}"
    smaller = largest_fitting(dimensions, recipe, usable, is_cpu)
    advice = "nothing smaller does"
    if smaller is not None:
        advice = f"rank {smaller.rank} with records of {smaller.max_seq_length} tokens does"
    answer = f"does not fit into {_gib(usable)} usable GiB; {advice}"
    if must_fit:
        raise MemoryError(answer)
    return answer


def check_weights(device: torch.device) -> str:
    """Say which forms of weights the tensor cores multiply, where an engine has a kernel for it and
    rounds activations to the form. Trainings dequantize blocks everywhere.
    """
    is_cpu = device.type == "cpu"
    native = native_weights(None if is_cpu else torch.cuda.get_device_capability(device))
    others = [title_of(name) for name in get_args(Weights) if name not in native]
    multiplied = ", ".join(map(title_of, native)) or "none"
    return f"multiplied by tensor cores: {multiplied}; dequantized first: {', '.join(others)}"


def check_attention(device: torch.device) -> str:
    """Compare packed attention and its gradients with fp32, segment by segment."""
    output_db, gradient_db = attention_noise(device)
    if min(output_db, gradient_db) < MIN_ATTENTION_DB:
        raise ArithmeticError(f"wrong: output {output_db:.0f} dB, gradients {gradient_db:.0f} dB")
    return f"against fp32: output {output_db:.0f} dB, gradients {gradient_db:.0f} dB"


def attention_noise(device: torch.device) -> tuple[float, float]:
    """Return the SQNR in dB of the output and of the worst gradient, of segments packed in a row:
    one token, some, more than a block of keys.
    """
    bounds = [0, 100, 101, 300, 640]
    draw = KernelDraw(device)
    q, k, v = packed = [
        draw.normal(1, heads, bounds[-1], 64).requires_grad_() for heads in (8, 2, 2)
    ]
    exact = [x.detach().float().requires_grad_() for x in packed]
    cu_seqlens = torch.tensor(bounds, dtype=torch.int32, device=device)
    longest = max(end - start for start, end in pairwise(bounds))
    output = falqon_attention(
        nn.Identity(), q, k, v, None, 0.125, cu_seqlens=cu_seqlens, max_seqlen=longest
    )[0]
    segments = ([x[:, :, start:end] for x in exact] for start, end in pairwise(bounds))
    attend = partial(F.scaled_dot_product_attention, is_causal=True, scale=0.125, enable_gqa=True)
    expected = torch.cat([attend(*segment) for segment in segments], 2).transpose(1, 2)
    grad = draw.normal(*expected.shape)
    output.backward(grad)
    expected.backward(grad.float())
    gradients = ([x.grad for x in tensors] for tensors in (packed, exact))
    return _decibel([output.detach()], [expected.detach()]), _decibel(*gradients)


def check_operators(device: torch.device) -> str:
    """List the kernels that trainings do not use here, by the verdicts that trainings use."""
    faults = faults_on(device)
    if faults:
        _raise_unless_old(device, describe_faults(torch.cuda.get_device_name(device), faults))
    return "every kernel computes what its oracle does"


def check_step_on_cpu() -> str:
    """Run two steps of a small model. Raises `ArithmeticError` where the loss does not fall."""
    first, second = step_losses(torch.device("cpu"))
    if not second < first:
        raise ArithmeticError(f"the loss did not fall: {first:.4f}, then {second:.4f}")
    return f"two layers on the CPU: the loss falls from {first:.4f} to {second:.4f}"


def check_step_on_card(device: torch.device) -> str:
    """Compare two steps on the card with the CPU, which rounds to FP8 as the card does."""
    losses = step_losses(device)
    expected = step_losses(torch.device("cpu"))
    pairs = zip(losses, expected, strict=True)
    apart = max(abs(loss / exact - 1) for loss, exact in pairs)
    figures = " and ".join(
        f"{loss:.4f} for {exact:.4f}" for loss, exact in zip(losses, expected, strict=True)
    )
    if not apart < MAX_LOSS_RATIO:
        raise ArithmeticError(f"losses on the card are not those of the CPU: {figures}")
    return f"losses on the card for those of the CPU: {figures}"


def step_losses(device: torch.device) -> tuple[float, float]:
    """Return the loss of a first step of two layers, and of a second on the same records."""
    setup = TWO_LAYER_SETUP
    recipe = setup.recipe(device).model_copy(update={"simulate_fp8": True})
    model = random_model(setup.config, torch.device("cpu")).to(device)
    method = Falqon(recipe)
    method.prepare(model, [])
    optimizer = Optimizer(method.parameters(), weight_decay=0.0, max_grad_norm=1.0)
    load = workloads(setup)[0]
    batches = load.microbatches(load.num_tokens)
    objective = Supervised()
    count = sum(map(objective.count, batches))
    first, second = (
        train_step(
            model,
            method,
            objective,
            optimizer,
            StepBatch(number, batches, count, load.num_tokens),
            CHECK_LEARNING_RATE,
        ).metrics["loss"]
        for number in (1, 2)
    )
    return first, second


def skip_card() -> str:
    """Raise `Skipped`: there is no card."""
    raise Skipped("FP8 products, kernels and a step on the card were not tried: there is no card")


def check_products(outputs: int, inputs: int, device: torch.device) -> Measurement:
    """Time each way to multiply FP8 codes at one linear's size, and compare it with the oracle."""
    draw = KernelDraw(device)
    operands = (*draw.qdata(SHAPES_7B.tokens, inputs), *draw.qdata(outputs, inputs), True)
    expected = scaled_mm.oracle(*operands)
    flops = 2.0 * SHAPES_7B.tokens * outputs * inputs
    rates: dict[Any, float] = {}
    faults: list[str] = []
    for gemm in GEMMS:
        try:
            _raise_if_noisy(_decibel([gemm(*operands)], [expected]))
            seconds = median_seconds(partial(gemm, *operands), device, MEASURED_SECONDS)
            rates[gemm] = flops / seconds / 1e12
        except Exception as error:
            faults.append(f"{gemm.__name__} {what_went_wrong(error)}")
    if not rates:
        _raise_unless_old(device, "; ".join(faults))
    chosen = gemm_for(device, GemmShape(SHAPES_7B.tokens, outputs, inputs, fast_accumulation=True))
    figures = [f"{gemm.__name__} {rate:.0f} TFLOP/s" for gemm, rate in rates.items()]
    detail = "; ".join([*figures, *faults, f"trainings take {chosen.__name__}"])
    return Measurement(detail, rates.get(chosen, min(rates.values())))


def check_kernel(line: KernelLine, shapes: Shapes, device: torch.device) -> str:
    """Compare a kernel with its oracle, and time it."""
    architecture = _architecture(device)
    if line.architectures is not None and architecture not in line.architectures:
        raise Skipped(f"not used on {architecture}")
    try:
        result = measure_kernel(line, shapes, device, MEASURED_SECONDS)
    except Exception as error:
        _raise_unless_old(device, what_went_wrong(error))
    noise = "every bit"
    if result.sqnr_db is not None:
        _raise_if_noisy(result.sqnr_db)
        noise = f"{result.sqnr_db:.0f} dB"
    rate = f"{result.moved / result.seconds / 1e9:.0f} GB/s"
    if result.flops:
        rate = f"{result.flops / result.seconds / 1e12:.1f} TFLOP/s"
    return f"{noise} of its oracle, {1e6 * result.seconds:.0f} us, {rate}"


def _raise_unless_old(device: torch.device, fault: str) -> NoReturn:
    """A card without FP8 compiles no kernel that writes it: the oracles compute there."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < FP8_CAPABILITY:
        raise Skipped(f"{_architecture(device)} has no FP8; the oracle computes instead ({fault})")
    raise RuntimeError(fault)


def _raise_if_noisy(noise_db: float) -> None:
    if not noise_db >= MIN_SQNR_DB:
        raise ArithmeticError(f"its result is wrong: {noise_db:.0f} dB")


def _decibel(values: list[Tensor], expected: list[Tensor]) -> float:
    noise = sqnr_db(values, expected)
    return float("inf") if noise is None else noise


def _architecture(device: torch.device) -> str:
    if device.type != "cuda":
        return device.type
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def _round_up(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.1f}"
