"""The gain of FP8: the products of a linear and of its adapter in bf16, in FP8, and in FP8 with the
cost of quantizing their operands.

Quantizing reads and writes an operand once for any other operand, so it weighs most on products of
few operations: those of an adapter of low rank. The last table is the cost of FALQON's adapter
instead: the rows of A in the product of the weight.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from falqon_core.bench.studies import Bars, StudyReport, Tell, table
from falqon_core.bench.timing import median_seconds
from falqon_core.ops.quantize import quantize_codes
from falqon_core.ops.samples import Draw
from falqon_core.ops.scaled_mm import has_fp8_gemm, scaled_mm


@dataclass(frozen=True)
class ProductSizes:
    """`linears`: inputs and outputs."""

    tokens: int
    linears: tuple[tuple[int, int], ...]
    ranks: tuple[int, ...]
    seconds: float  # Seconds of timing for each product.


LLAMA_7B_SIZES = ProductSizes(
    tokens=16 * 528,
    linears=((4096, 4096), (4096, 11008), (11008, 4096)),
    ranks=(16, 32, 64, 128, 256, 512),
    seconds=0.2,
)
SMALL_SIZES = ProductSizes(
    tokens=1024, linears=((576, 576), (576, 1536), (1536, 576)), ranks=(16, 64, 256), seconds=0.1
)


class Product(NamedTuple):
    """Seconds of x [T, K] . w [N, K]^T."""

    bf16: float
    fp8: float
    quantize_x: float
    quantize_w: float

    @property
    def gain(self) -> float:
        """Return the speed of FP8 as a multiple of bf16's."""
        return self.bf16 / self.fp8

    @property
    def gain_with_quantizing(self) -> float:
        """Return the same with both operands quantized at every product."""
        return self.bf16 / (self.fp8 + self.quantize_x + self.quantize_w)


def study_overhead(device: torch.device, sizes: ProductSizes, tell: Tell) -> StudyReport:
    """Measure all products. Return the tables and the picture."""
    products = {}
    for inputs, outputs in sizes.linears:
        shapes = [("linear", inputs, outputs)]
        for rank in sizes.ranks:
            shapes += [(f"A, rank {rank}", inputs, rank), (f"B, rank {rank}", rank, outputs)]
        for name, k, n in shapes:
            label = f"{inputs} x {outputs}: {name}"
            tell(label)
            products[label] = measure_product(device, sizes.tokens, k, n, sizes.seconds)
    tell("rows of A in the product of the weight")
    rows = [
        [
            label,
            *(f"{1e3 * seconds:.3f}" for seconds in product),
            f"{product.gain:.2f}",
            f"{product.gain_with_quantizing:.2f}",
        ]
        for label, product in products.items()
    ]
    head = ["product", "bf16 ms", "FP8 ms", "quantize x ms", "quantize w ms"]
    head += ["FP8 gains", "with quantizing"]
    text = (
        f"# When FP8 pays\n\n{_place(device)}; {sizes.tokens} tokens.\n\n{table(head, rows)}\n"
        f"{_crossovers(sizes, products)}\n\n"
        f"## The adapter as rows of the weight\n\n{_marginal(device, sizes)}"
    )
    bars = Bars(
        "Speed of FP8 over bf16",
        "times",
        list(products),
        {
            "product alone": [product.gain for product in products.values()],
            "with quantizing": [product.gain_with_quantizing for product in products.values()],
        },
    )
    return StudyReport(text, bars)


def measure_product(device: torch.device, tokens: int, k: int, n: int, seconds: float) -> Product:
    """Time one product x [T, k] . w [n, k]^T and the quantizing of its operands."""
    draw = Draw(device)
    x, w = draw.normal(tokens, k), draw.normal(n, k)
    x_codes, w_codes = quantize_codes(x), quantize_codes(w)
    return Product(
        bf16=median_seconds(lambda: x @ w.t(), device, seconds),
        fp8=median_seconds(lambda: scaled_mm(*x_codes, *w_codes), device, seconds),
        quantize_x=median_seconds(lambda: quantize_codes(x), device, seconds),
        quantize_w=median_seconds(lambda: quantize_codes(w), device, seconds),
    )


def _marginal(device: torch.device, sizes: ProductSizes) -> str:
    """Return a table: the product of a weight without and with the rows of A under it."""
    draw = Draw(device)
    rows = []
    for inputs, outputs in sizes.linears:
        x = draw.normal(sizes.tokens, inputs)
        times = [
            _product_seconds(x, draw.normal(outputs + rank, inputs), sizes.seconds)
            for rank in (0, *sizes.ranks)
        ]
        rows.append(
            [f"{inputs} x {outputs}", f"{1e3 * times[0]:.3f}"]
            + [f"{time / times[0] - 1:+.1%}" for time in times[1:]]
        )
    return table(["linear", "W alone ms", *(f"with rank {rank}" for rank in sizes.ranks)], rows)


def _product_seconds(x: Tensor, weight: Tensor, seconds: float) -> float:
    """Return the seconds of x . weight^T, in FP8 where the device has it."""
    if x.device.type == "cpu" or not has_fp8_gemm(x.device):
        return median_seconds(lambda: x @ weight.t(), x.device, seconds)
    codes = *quantize_codes(x), *quantize_codes(weight)
    return median_seconds(lambda: scaled_mm(*codes), x.device, seconds)


def _crossovers(sizes: ProductSizes, products: dict[str, Product]) -> str:
    lines = []
    for inputs, outputs in sizes.linears:
        for part in "AB":
            paying = [
                rank
                for rank in sizes.ranks
                if products[f"{inputs} x {outputs}: {part}, rank {rank}"].gain_with_quantizing > 1
            ]
            where = f"from rank {paying[0]}" if paying else f"at no rank up to {sizes.ranks[-1]}"
            lines.append(f"- {part} of {inputs} x {outputs}: FP8 with quantizing pays {where}")
    return "\n".join(lines)


def _place(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "A CPU, where FP8 products are emulated, so that FP8 cannot gain"
