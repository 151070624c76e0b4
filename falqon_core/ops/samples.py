"""Small inputs on which an operator is tried, and the comparison of two results.

Compared are the values that results stand for: codes times scales, because two pairs of codes and
scales may mean the same number.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

# Maps (arguments after the call, its result) to the tensors that are compared.
Values = Callable[[tuple[Any, ...], Any], Sequence[Tensor]]


class Draw:
    """Random inputs on one device, the same at every call with the same sizes."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._generator = torch.Generator(device).manual_seed(0)

    def normal(
        self, *shape: int, deviation: float = 1.0, dtype: torch.dtype = torch.bfloat16
    ) -> Tensor:
        """Draw normal numbers of mean 0, in `dtype`."""
        return (
            torch.randn(*shape, generator=self._generator, device=self.device)
            .mul_(deviation)
            .to(dtype)
        )

    def halves(self, num_rows: int, num_columns: int) -> tuple[Tensor, Tensor]:
        """Draw two [num_rows, num_columns] as one GEMM leaves them: side by side."""
        left, right = self.normal(num_rows, 2 * num_columns).chunk(2, -1)
        return left, right

    def scales(self, *shape: int) -> Tensor:
        """Return powers of two from 2^-8 to 2^-5, fp32."""
        exponents = torch.randint(-8, -4, shape, generator=self._generator, device=self.device)
        return exponents.float().exp2()

    def codes(self, *shape: int) -> Tensor:
        """Return normal numbers of up to a few dozens as float8_e4m3fn."""
        return self.normal(*shape, deviation=16.0).to(torch.float8_e4m3fn)


def result_alone(_: tuple[Any, ...], result: Tensor) -> Sequence[Tensor]:
    """Compare the only result."""
    return [result]


def all_results(_: tuple[Any, ...], result: tuple[Tensor, ...]) -> Sequence[Tensor]:
    """Compare all results as they are."""
    return result


def codes_first(_: tuple[Any, ...], result: tuple[Tensor, ...]) -> Sequence[Tensor]:
    """Compare qdata * scale and all further results as they are."""
    return [result[0].float() * result[1], *result[2:]]


def codes_last(_: tuple[Any, ...], result: tuple[Tensor, ...]) -> Sequence[Tensor]:
    """Compare all results, the last two, qdata and scale, as their product."""
    return [*result[:-2], result[-2].float() * result[-1]]


def codes_in_place(arguments: tuple[Any, ...], _: Tensor) -> Sequence[Tensor]:
    """Compare codes * scale of the first two arguments, which are overwritten."""
    qdata, scale = arguments[:2]
    return [qdata.float() * scale]


def rounded_in_place(arguments: tuple[Any, ...], _: Tensor) -> Sequence[Tensor]:
    """Compare codes * scale of the first two arguments and the third, which are overwritten."""
    qdata, scale, values = arguments[:3]
    return [qdata.float() * scale, values]


class SampleInput(NamedTuple):
    """Arguments of an operator, and the choice of tensors that are compared."""

    arguments: tuple[Any, ...]
    values: Values

    def values_of(self, function: Callable[..., Any]) -> Sequence[Tensor]:
        """Call `function` on copies of the arguments."""
        arguments = tuple(x.clone() if isinstance(x, Tensor) else x for x in self.arguments)
        return self.values(arguments, function(*arguments))


Samples = Callable[[Draw], Iterable[SampleInput]]


def sqnr_db(values: Iterable[Tensor], expected: Iterable[Tensor]) -> float | None:
    """Return the signal-to-noise ratio of the worst tensor in dB, NaN where one is not finite; None
    where all are equal bit for bit.
    """
    noises = []
    for value, exact in zip(values, expected, strict=True):
        noise = torch.linalg.vector_norm(value.float() - exact.float(), dtype=torch.float64)
        if noise != 0:
            signal = torch.linalg.vector_norm(exact.float(), dtype=torch.float64)
            noises.append(float(20 * torch.log10(signal / noise)))
    return min(noises, key=lambda noise: (noise == noise, noise), default=None)
