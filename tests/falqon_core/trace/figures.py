"""The figures of a traced step for the whole depth of its model, and the seconds that it would take
if every operation ran at a card's rates: on paper, no GPU ran.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from tests.falqon_core.trace.cases import FEWER, MORE, Case
from tests.falqon_core.trace.ledger import Entry, Ledger


class Rates(NamedTuple):
    """Assumed, not measured: FLOP/s of FP8 and of bf16 products, bytes/s of memory."""

    fp8: float
    bf16: float
    memory: float


CARDS: Mapping[str, Rates] = {
    "RTX 4090": Rates(290e12, 150e12, 0.92e12),
    "L40S": Rates(420e12, 200e12, 0.78e12),
    "H100": Rates(1050e12, 600e12, 2.8e12),
}


class Figures(NamedTuple):
    """Of one step. `peak_bytes` as traced, `estimated_bytes` as `estimate.memory` plans it;
    `seconds` by card, without gaps between launches.
    """

    launches: int
    other_bytes: int
    gemm_bytes: int
    gemm_flops: float
    waits: int
    peak_bytes: int
    estimated_bytes: int
    seconds: dict[str, float]


def figures_of(case: Case) -> Figures:
    """Trace two depths of a model and say what follows for all its layers."""
    fewer, more = (case.trace(layers).ledger for layers in (FEWER, MORE))
    layers = case.config.num_hidden_layers

    def whole(figure: Callable[[Ledger], float]) -> float:
        first, second = figure(fewer), figure(more)
        return first + (second - first) / (MORE - FEWER) * (layers - FEWER)

    return Figures(
        launches=round(whole(lambda ledger: ledger.launches)),
        other_bytes=round(whole(lambda ledger: ledger.other_bytes)),
        gemm_bytes=round(whole(lambda ledger: ledger.gemm_bytes)),
        gemm_flops=whole(lambda ledger: ledger.gemm_flops),
        waits=round(whole(lambda ledger: ledger.waits)),
        peak_bytes=round(whole(lambda ledger: ledger.peak)),
        estimated_bytes=case.estimated_bytes(layers),
        seconds={
            card: whole(lambda ledger, rates=rates: _seconds(ledger, rates))  # type: ignore[misc]
            for card, rates in CARDS.items()
        },
    )


def _seconds(ledger: Ledger, rates: Rates) -> float:
    return sum(_entry_seconds(name, entry, rates) for name, entry in ledger.entries.items())


def _entry_seconds(name: str, entry: Entry, rates: Rates) -> float:
    flops = rates.fp8 if name == "_scaled_mm" else rates.bf16
    return max(entry.flops / flops, entry.num_bytes / rates.memory)
