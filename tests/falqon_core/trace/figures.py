"""The figures of a traced step for the whole depth of its model, and the seconds that it would take
if every operation ran at a card's rates: on paper, no GPU ran.
"""

from collections.abc import Callable
from typing import NamedTuple

from falqon_core.estimate.step_seconds import CARDS, CardRates
from tests.falqon_core.trace.cases import Case
from tests.falqon_core.trace.ledger import Entry, Ledger


class Figures(NamedTuple):
    """Of one step. `passes` of it; `peak_bytes` as traced, `estimated_bytes` as `estimate.memory`
    plans it; `seconds` by card, without gaps between launches.
    """

    passes: int
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
    shallow, deep = case.depths
    fewer, more = (case.trace(layers).ledger for layers in case.depths)
    layers = case.config.num_hidden_layers

    def whole(figure: Callable[[Ledger], float]) -> float:
        first, second = figure(fewer), figure(more)
        return first + (second - first) / (deep - shallow) * (layers - shallow)

    return Figures(
        passes=len(case.microbatches(shallow)),
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


def _seconds(ledger: Ledger, rates: CardRates) -> float:
    return sum(_entry_seconds(entry, rates) for entry in ledger.entries.values())


def _entry_seconds(entry: Entry, rates: CardRates) -> float:
    moving = entry.num_bytes / rates.memory
    if not entry.flops:
        return moving
    rate = rates.of_rows(entry.num_rows, fp8=entry.name == "_scaled_mm")
    return max(entry.flops / rate, moving)
