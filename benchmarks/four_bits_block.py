r"""One MLP of a real model at four bits: a comparison that takes minutes, with seeds.

    python -m benchmarks.four_bits_block --model .cache/smollm2 --text gsm8k_train.jsonl

The MLP of layer 10 learns from a teacher, which is itself after a shift of rank 8 and 5 % of each
weight's norm, on its own inputs of real text. Students have rank 64 and take 60 steps of 256
tokens. The figure is the squared error of their outputs on 1,024 other tokens over the power of the
teacher's. LoRA trains in bf16 and is rounded afterwards; FALQON computes with the rounded weights
at each step. Seeds decide the shift, A and the order of tokens; every method has the same ones.
Each student is one line of the CSV and is not trained again. Errors do not depend on how busy the
machine is.

It says what the rounding of weights does to one block; what a model loses is in four_bits.md.
"""

import math
import statistics
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import parser_of
from benchmarks.csv_rows import append, read
from benchmarks.four_bits import MAX_SEQ_LENGTH, RESULTS
from benchmarks.rows import chat_dataset
from falqon_core.data.microbatch import collate
from falqon_core.meld.block_quantizer import QUANTIZERS, BlockQuantizer
from falqon_core.meld.block_rows import BlockRows
from falqon_core.meld.init import orthonormal, quant_error, top_right_singular_vectors
from falqon_core.meld.linear import MeldedLinear, call_together, meld
from falqon_core.meld.update import Anchored
from falqon_core.methods.adapter import AdaptedLinear, Adapter
from falqon_core.methods.falqon import A_RELATIVE_RATE
from falqon_core.methods.frozen import DenseLinear
from falqon_core.train.model import load_base_model, load_tokenizer

LAYER = 10
RANK, SHIFT_RANK, SHIFT = 64, 8, 0.05
STEPS, STEP_TOKENS, TEST_TOKENS = 60, 256, 1024
FALQON_RATE, LORA_RATE = 5e-4, 2e-3  # The automatic ones.
NAMES = ("gate_proj", "up_proj", "down_proj")
Forward = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Student:
    """One way to train. `a_init` of FALQON; scales are chosen again every `scale_steps`; B begins
    at the base's rounding error along A, times `feedback`.
    """

    name: str
    rate_factor: float = 1.0
    a_init: str = "gradient"
    scale_steps: int = 0
    feedback: float = 0.0


STUDENTS = (
    Student("as it is"),
    Student("rate x 0.5", rate_factor=0.5),
    Student("rate x 2", rate_factor=2.0),
    Student("rate x 4", rate_factor=4.0),
    Student("A random", a_init="orthonormal"),
    Student("A of the rounding error", a_init="quant_error"),
    Student("B begun at the error", feedback=1.0),
    Student("B begun against the error", feedback=-1.0),
    Student("scales chosen every 10 steps", scale_steps=10),
)
LORA_FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Trained:
    """The relative errors of one student at a form, of the seeds in order, with spaces between."""

    form: str
    student: str
    errors: str


@dataclass(frozen=True)
class Task:
    """Weights bf16 [O, I] by name, of the base; inputs [T, H] and the teacher's outputs [T, H]."""

    base: dict[str, Tensor]
    inputs: Tensor
    outputs: Tensor
    seed: int

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed * 1000 + step)
        number = len(self.inputs) - TEST_TOKENS
        at = TEST_TOKENS + torch.randperm(number, generator=generator)[:STEP_TOKENS]
        return self.inputs[at], self.outputs[at]

    @torch.no_grad()
    def error(self, forward: Forward) -> float:
        """Return the error of a student relative to the power of the outputs, on other tokens."""
        expected = self.outputs[:TEST_TOKENS].float()
        error = forward(self.inputs[:TEST_TOKENS]).float() - expected
        return (error.square().sum() / expected.square().sum()).item()


def mlp(weights: dict[str, Tensor]) -> Forward:
    gate, up, down = (weights[name] for name in NAMES)
    return lambda x: F.linear(F.silu(F.linear(x, gate)) * F.linear(x, up), down)


@torch.no_grad()
def read_block(model_path: Path, text: Path) -> tuple[dict[str, Tensor], Tensor]:
    """Return the weights of the MLP and its inputs [T, H] on the text's first records."""
    model, tokenizer = load_base_model(model_path), load_tokenizer(model_path)
    lines = Path(text).read_text().splitlines()[:48]
    first = Path("/dev/shm" if Path("/dev/shm").exists() else ".", "four_bits_block.jsonl")
    first.write_text("\n".join(lines) + "\n")
    sequences = chat_dataset(first, tokenizer, MAX_SEQ_LENGTH)
    first.unlink()
    block = model.base_model.layers[LAYER].mlp
    inputs: list[Tensor] = []
    block.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].flatten(0, 1)))
    del model.base_model.layers[LAYER + 1 :]
    for at in range(0, len(sequences), 8):
        rows = collate(sequences[at : at + 8], packing=True)
        model.base_model(
            input_ids=rows.input_ids,
            position_ids=rows.position_ids,
            use_cache=False,
            cu_seqlens=rows.cu_seqlens,
            max_seqlen=rows.max_seqlen,
        )
    weights = {name: block.get_submodule(name).weight.detach().clone() for name in NAMES}
    return weights, torch.cat(inputs)


@torch.no_grad()
def new_task(base: dict[str, Tensor], inputs: Tensor, seed: int) -> Task:
    generator = torch.Generator().manual_seed(seed)
    shifted = {}
    for name, weight in base.items():
        left = torch.randn(len(weight), SHIFT_RANK, generator=generator)
        shift = left @ torch.randn(SHIFT_RANK, weight.shape[1], generator=generator)
        shifted[name] = weight.float() + shift * (SHIFT * weight.float().norm() / shift.norm())
    return Task(base, inputs, mlp(shifted)(inputs.float()), seed)


def descend(
    task: Task,
    forward: Forward,
    groups: list[dict[str, object]],
    after_step: Callable[[int], None] = lambda _: None,
) -> None:
    """Take the steps, by AdamW and a cosine."""
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / STEPS))
    )
    for step in range(STEPS):
        x, expected = task.batch(step)
        loss = (forward(x).float() - expected).square().sum() / expected.square().sum()
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        after_step(step + 1)


def train_lora(task: Task, factor: float) -> dict[str, Tensor]:
    """Return the merged weights, fp32."""
    layers = {
        name: AdaptedLinear(
            DenseLinear(weight), Adapter(name, weight, RANK, 1.0, task.seed), bias=None
        )
        for name, weight in task.base.items()
    }
    gate, up, down = (layers[name] for name in NAMES)
    parameters = [each for layer in layers.values() for each in layer.adapter.parameters()]
    descend(
        task,
        lambda x: down(F.silu(gate(x)) * up(x)),
        [{"params": parameters, "lr": LORA_RATE * factor}],
    )
    return {name: layer.merged_weight().detach() for name, layer in layers.items()}


def train_falqon(task: Task, quantizer: BlockQuantizer, student: Student) -> float:
    """Return the error of a trained student."""
    linears = {}
    for name, weight in task.base.items():
        linears[name] = nn.Linear(*weight.shape[::-1], bias=False, device="meta")
        linears[name].weight = nn.Parameter(weight, requires_grad=False)
    fused = [linears["gate_proj"], linears["up_proj"]]
    fitted = quantizer.fitted_to([linear.weight for linear in fused])
    gate, up = meld(fused, RANK, 1.0, trains_a=True, quantizer=fitted)
    fitted = quantizer.fitted_to([linears["down_proj"].weight])
    (down,) = meld([linears["down_proj"]], RANK, 1.0, quantizer=fitted)
    layers = dict(zip(NAMES, (gate, up, down), strict=True))
    rule = Anchored()
    chosen = choose_a(task, quantizer, student.a_init)
    with torch.no_grad():
        for name, a in chosen.items():
            rule.start(layers[name], task.base[name], a)
            if student.feedback:
                begin_at_error(layers[name], student.feedback)

    def forward(x: Tensor) -> Tensor:
        left, right = call_together(x, gate, up)
        y: Tensor = down(F.silu(left) * right)
        return y

    @torch.no_grad()
    def after_step(step: int) -> None:
        for layer in layers.values():
            if student.scale_steps and step % student.scale_steps == 0:
                layer.round_a()
                choose_scales(layer)
            rule.after_step(layer)

    rate = FALQON_RATE * student.rate_factor
    masters = [layer.a_master for layer in layers.values() if layer.a_master is not None]
    relative = A_RELATIVE_RATE if student.a_init == "gradient" else 1.0
    groups: list[dict[str, object]] = [
        {"params": [layer.delta for layer in layers.values()], "lr": rate},
        {"params": masters, "lr": rate * relative},
    ]
    descend(task, forward, groups, after_step)
    return task.error(forward)


def begin_at_error(layer: MeldedLinear, feedback: float) -> None:
    """Begin B at the rounding error of the base along A, times `feedback`."""
    assert layer.base is not None
    error = layer.weight.float() - layer.base.values.float()
    layer.delta.copy_(error @ torch.linalg.pinv(layer.a.float()) * feedback)
    layer.refresh()


def choose_scales(layer: MeldedLinear) -> None:
    """Choose the scales again for base and delta."""
    rows = layer.w_rows
    assert isinstance(rows, BlockRows)
    assert layer.base is not None
    rows.choose_scales(layer.base, layer.delta.detach(), layer.a, layer.scaling)


def choose_a(task: Task, quantizer: BlockQuantizer, a_init: str) -> dict[str, Tensor]:
    """Return A fp32 [r, I] of each linear."""
    if a_init == "orthonormal":
        return {
            name: orthonormal(name, weight.shape[1], RANK, task.seed)
            for name, weight in task.base.items()
        }
    if a_init == "quant_error":
        return {
            name: quant_error(rounded(weight, quantizer) - weight.float(), RANK, scaled=False)
            for name, weight in task.base.items()
        }
    weights = {name: weight.float().requires_grad_() for name, weight in task.base.items()}
    x, expected = task.batch(0)
    (mlp(weights)(x.float()) - expected).square().sum().backward()
    gradients = {name: weight.grad for name, weight in weights.items()}
    return {
        name: top_right_singular_vectors(gradient, RANK)
        for name, gradient in gradients.items()
        if gradient is not None
    }


def rounded(weight: Tensor, quantizer: BlockQuantizer) -> Tensor:
    return quantizer.fitted_to([weight]).quantize(weight)[0]


def compare(
    tasks: Sequence[Task], quantizer: BlockQuantizer, done: Collection[str]
) -> Iterator[tuple[str, list[float]]]:
    """Yield the errors of each student that is not `done`, one a seed."""

    def after(weights: dict[str, Tensor]) -> Forward:
        return mlp({name: rounded(each, quantizer).bfloat16() for name, each in weights.items()})

    if "the base, rounded" not in done:
        yield "the base, rounded", [task.error(after(task.base)) for task in tasks]
    for factor in LORA_FACTORS:
        if f"LoRA, rounded afterwards, rate x {factor:g}" in done:
            continue
        merged = [train_lora(task, factor) for task in tasks]
        in_bf16 = [
            task.error(mlp({name: each.bfloat16() for name, each in weights.items()}))
            for task, weights in zip(tasks, merged, strict=True)
        ]
        yield f"LoRA, bf16, rate x {factor:g}", in_bf16
        yield (
            f"LoRA, rounded afterwards, rate x {factor:g}",
            [task.error(after(weights)) for task, weights in zip(tasks, merged, strict=True)],
        )
    for student in STUDENTS:
        if (name := f"FALQON, {student.name}") not in done:
            yield name, [train_falqon(task, quantizer, student) for task in tasks]


def report(done: Sequence[Trained]) -> str:
    """Return the page: a table for each form."""
    lines = ["# One block at four bits", "", (__doc__ or "").strip(), ""]
    for form in dict.fromkeys(each.form for each in done):
        lines += [f"| {form} | error, mean | of each seed |", "|---|---:|---|"]
        lines += [
            f"| {each.student} | {statistics.fmean(map(float, each.errors.split())):.4f} | "
            f"{each.errors.replace(' ', ', ')} |"
            for each in done
            if each.form == form
        ]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="JSONL with question and answer")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--forms", nargs="+", choices=QUANTIZERS, default=["nvfp4", "q4_0"])
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    base, inputs = read_block(args.model, args.text)
    tasks = [new_task(base, inputs.bfloat16(), seed) for seed in range(args.seeds)]
    table = args.results / "four_bits_block.csv"
    for form in args.forms:
        done = {each.student for each in read(table, Trained) if each.form == form}
        for name, errors in compare(tasks, QUANTIZERS[form], done):
            of_seeds = " ".join(f"{error:.4f}" for error in errors)
            append(table, [Trained(form, name, of_seeds)])
            (args.results / "four_bits_block.md").write_text(report(read(table, Trained)))
            print(form, name, errors, flush=True)


if __name__ == "__main__":
    main()
