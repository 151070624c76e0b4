"""`python -m tests.falqon_core.trace` prints the figures of every case, for the whole depth of its
model, as JSON. A process of its own: tracing replaces how Triton launches, and recorded kernels
must not be those of its interpreter.
"""

import json
import sys
from typing import NamedTuple

from tests.falqon_core.trace.cases import CASES, FEWER, MORE, Case
from tests.falqon_core.trace.ledger import Ledger


class Figures(NamedTuple):
    """Of one step. `peak_bytes` as traced, `estimated_bytes` as `estimate.memory` plans it."""

    launches: int
    other_bytes: int
    gemm_bytes: int
    gemm_flops: float
    waits: int
    peak_bytes: int
    estimated_bytes: int


def figures_of(case: Case) -> Figures:
    """Trace two depths of a model and say what follows for all its layers."""
    fewer, more = (case.trace(layers).ledger for layers in (FEWER, MORE))
    layers = case.config.num_hidden_layers

    def whole(name: str) -> int:
        return round(_extrapolate(fewer, more, name, layers))

    return Figures(
        launches=whole("launches"),
        other_bytes=whole("other_bytes"),
        gemm_bytes=whole("gemm_bytes"),
        gemm_flops=whole("gemm_flops"),
        waits=whole("waits"),
        peak_bytes=whole("peak"),
        estimated_bytes=case.estimated_bytes(layers),
    )


def _extrapolate(fewer: Ledger, more: Ledger, name: str, layers: int) -> float:
    first, second = float(getattr(fewer, name)), float(getattr(more, name))
    return first + (second - first) / (MORE - FEWER) * (layers - FEWER)


def main() -> None:
    figures = {name: figures_of(case)._asdict() for name, case in CASES.items()}
    json.dump(figures, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
