"""`falqon models fit`: arithmetic on a table of well-known models, without a service."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.local.commands import refuse

if TYPE_CHECKING:
    from falqon_core.estimate.estimate import Estimate
    from falqon_core.estimate.fit import CardSize, Fit

HERE = "here"
NO_FIT = "-"
NOTE = (
    "Estimated by arithmetic, not measured: one epoch of {records:,} records of {tokens} tokens, "
    "with start and export. It may take {listed:g} times as long, on a card with an assumed peak "
    "(32 GB) {assumed:g} times. Prices of {date}. {no_fit}: does not fit. {here}: this machine, "
    "{machine}."
)


def fit(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="One model with all methods.")
    ] = None,
    method: Annotated[str, typer.Option(help="The method for the table of all models.")] = "falqon",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print all models and methods as JSON.")
    ] = False,
) -> None:
    """Estimate which models train on which card and on this machine, in what time and at what
    cost.
    """
    from app.client.output import Output
    from falqon_core.contract.methods import METHOD_SPECS
    from falqon_core.estimate.fit import CARDS, fit_model
    from falqon_core.estimate.published import PUBLISHED_MODELS

    if model is not None and model not in PUBLISHED_MODELS:
        refuse(f"{model} is not in the table. It has {', '.join(PUBLISHED_MODELS)}.")
    if method not in METHOD_SPECS:
        refuse(f"--method {method}: there is no such method. They are {', '.join(METHOD_SPECS)}.")
    here = _this_machine()
    fits = [
        fit_model(name, each, card)
        for name in ([model] if model else PUBLISHED_MODELS)
        for card in (*CARDS, here)
        for each in METHOD_SPECS
        if model or as_json or each == method
    ]
    out = Output(as_json=as_json)
    if as_json:
        out.show({"object": "list", "data": [_to_json(each) for each in fits]})
    elif model:
        rows = (
            (each.card.name, each.method, each.tokens_at_once or NO_FIT, _cell(each.estimate))
            for each in fits
        )
        out.table(("card", "method", "tokens at once", "time and cost"), rows)
    else:
        out.table(("model", *(card.name for card in (*CARDS, here))), _rows_of_models(fits))
    out.note(_note(here))


def _this_machine() -> "CardSize":
    """Return the device of this machine, a CPU with the memory that is free now."""
    from app.base.settings import load_settings
    from app.estimates.service import device_of
    from falqon_core.estimate.estimate import GIB
    from falqon_core.estimate.fit import CardSize
    from falqon_core.estimate.host_memory import available_host_bytes

    device, num_devices = device_of(load_settings())
    if device.memory_gib is None:
        device = device.model_copy(update={"memory_gib": available_host_bytes() / GIB})
    return CardSize(HERE, device, num_devices)


def _rows_of_models(fits: Sequence["Fit"]) -> Iterator[tuple[str, ...]]:
    for model, of_model in groupby(fits, key=lambda each: each.model):
        yield (model, *(_cell(each.estimate) for each in of_model))


def _cell(estimate: "Estimate") -> str:
    """Write time and cost as short as six of them fit into 80 columns."""
    if not estimate.fits:
        return NO_FIT
    hours = estimate.seconds.expected / 3600
    if hours >= 10:
        time = f"{hours:.0f}h"
    elif hours >= 1:
        time = f"{hours:.1f}h"
    else:
        time = f"{60 * hours:.0f}m"
    if estimate.cost.is_unpriced:
        return time
    dollars = estimate.cost.expected
    return f"{time} ${dollars:.0f}" if dollars >= 10 else f"{time} ${dollars:.2f}"


def _to_json(each: "Fit") -> dict[str, Any]:
    estimate = each.estimate
    return {
        "model": each.model,
        "method": each.method,
        "card": each.card.name,
        "device": each.card.device.name,
        "fits": estimate.fits,
        "tokens_at_once": each.tokens_at_once,
        "memory_bytes": estimate.memory_bytes,
        "seconds": estimate.seconds.model_dump(),
        "cost": None if estimate.cost.is_unpriced else estimate.cost.model_dump(mode="json"),
        "explanation": estimate.explanation,
    }


def _note(here: "CardSize") -> str:
    from falqon_core.estimate.estimate import ASSUMED_BAND, ROOFLINE_BAND
    from falqon_core.estimate.fit import NUM_RECORDS, TOKENS_PER_RECORD
    from falqon_core.estimate.prices import TABLE_DATE

    is_cpu = here.device.name == "cpu"
    return NOTE.format(
        records=NUM_RECORDS,
        tokens=TOKENS_PER_RECORD,
        listed=ROOFLINE_BAND[1],
        assumed=ASSUMED_BAND[1],
        date=TABLE_DATE,
        no_fit=NO_FIT,
        here=HERE,
        machine=f"{here.num_devices} CPU cores" if is_cpu else here.device.name,
    )
