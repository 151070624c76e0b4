"""Prices of an hour of a device: a dated table, and the arithmetic of dollars.

Rates differ by a factor of four and more between providers of one and the same device, so every
figure says whose it is, of what kind and when it was read. Nothing is fetched; who pays another
rate overrides it (FALQON_PRICES, `PUT /v1/prices`).
"""

import re
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from falqon_core.contract.figures import MAX_DOLLARS

_DECIMAL = re.compile(r"[0-9]{1,9}(\.[0-9]{1,4})?")
PriceKind = Literal["typical", "on_demand", "marketplace", "spot", "override", "unpriced"]


def _decimal_string(value: object) -> object:
    """Refuse a number: a float has lost the cents already."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        return Decimal(value)
    if isinstance(value, int | float):
        raise ValueError('Write dollars in quotes, such as "2.50".')
    raise ValueError("Write dollars with at most four decimals, such as 2.50.")


Dollars = Annotated[
    Decimal,
    BeforeValidator(_decimal_string),
    Field(gt=0),
    WithJsonSchema({"type": "string", "pattern": f"^{_DECIMAL.pattern}$"}, mode="validation"),
]


class Price(BaseModel):
    """`kind` "typical": the usual price of such a device, not a quote. "unpriced": none is set,
    and a rate of zero stands in for it, which no other kind has. Every other kind was read at
    `source` on `as_of`.
    """

    model_config = ConfigDict(frozen=True)

    device: str
    provider: str
    kind: PriceKind
    usd_per_device_hour: Decimal
    as_of: date
    source: str

    @property
    def label(self) -> str:
        """Describe the price beside an amount, in a few words."""
        if self.kind == "unpriced":
            return f"unpriced: {self.source}"
        return f"{self.provider}, {self.kind.replace('_', ' ')}, {self.as_of.isoformat()}"


def _rows() -> list[Price]:
    """device, provider, kind, dollars an hour, as of, where it was read; the first row of a device
    is its default.
    """
    table: list[tuple[str, str, PriceKind, str, str, str]] = [
        (
            "cpu",
            "cloud vCPU",
            "typical",
            "0.045",
            "2026-11-01",
            "one general-purpose vCPU of a large cloud",
        ),
        (
            "rtx-4090",
            "market place",
            "typical",
            "0.35",
            "2026-11-01",
            "also the rate that the published cost table implies",
        ),
        ("rtx-4090", "OpenRelay", "on_demand", "0.29", "2026-09-20", "openrelay.inc/pricing"),
        (
            "l40s",
            "large cloud",
            "typical",
            "1.861",
            "2026-11-01",
            "also the rate that the published cost table implies",
        ),
        ("l40s", "Verda", "spot", "0.93", "2026-10-29", "verda.com/pricing"),
        (
            "a100",
            "RunPod Secure",
            "on_demand",
            "1.79",
            "2026-11-09",
            "www.runpod.io/pricing, A100 SXM 80 GB",
        ),
        (
            "a100",
            "RunPod Community",
            "marketplace",
            "1.39",
            "2026-11-09",
            "www.runpod.io/pricing, A100 SXM 80 GB",
        ),
        (
            "a100",
            "Lambda",
            "on_demand",
            "2.79",
            "2026-09-20",
            "lambda.ai/instances, A100 SXM 80 GB, in eights",
        ),
        (
            "h100",
            "RunPod Community",
            "marketplace",
            "2.69",
            "2026-11-09",
            "www.runpod.io/pricing, H100 SXM",
        ),
        (
            "h100",
            "RunPod Secure",
            "on_demand",
            "3.99",
            "2026-11-09",
            "www.runpod.io/pricing, H100 SXM",
        ),
        (
            "h100",
            "AWS",
            "on_demand",
            "6.88",
            "2026-11-09",
            "p5.48xlarge, an eighth; also the rate that the published cost table implies",
        ),
        ("h100", "Azure", "on_demand", "12.29", "2026-11-09", "ND96isr_H100_v5, an eighth"),
        (
            "h200",
            "Akash",
            "marketplace",
            "4.45",
            "2026-09-20",
            "akash.network/pricing/gpus, starting at",
        ),
        (
            "h200",
            "Hyperstack",
            "on_demand",
            "3.99",
            "2026-10-24",
            "gpu_providers_latest.csv of a public price index",
        ),
        (
            "h200",
            "Nebius",
            "on_demand",
            "5.40",
            "2026-10-24",
            "gpu_providers_latest.csv of a public price index",
        ),
        ("b200", "Lambda", "on_demand", "6.69", "2026-09-20", "lambda.ai/instances, in eights"),
        ("b200", "RunPod Community", "marketplace", "5.98", "2026-08-19", "www.runpod.io/pricing"),
        (
            "b200",
            "Akash",
            "marketplace",
            "5.00",
            "2026-09-20",
            "akash.network/pricing/gpus, starting at",
        ),
    ]
    return [
        Price(
            device=device,
            provider=provider,
            kind=kind,
            usd_per_device_hour=Decimal(usd),
            as_of=date.fromisoformat(day),
            source=source,
        )
        for device, provider, kind, usd, day, source in table
    ]


PRICES: tuple[Price, ...] = tuple(_rows())
TABLE_DATE = max(price.as_of for price in PRICES)


def default_price(device: str) -> Price:
    """Return the first price of a device; an unlisted device is unpriced."""
    listed = next((price for price in PRICES if price.device == device), None)
    return listed or Price(
        device=device,
        provider="none",
        kind="unpriced",
        usd_per_device_hour=Decimal(0),
        as_of=TABLE_DATE,
        source=f"no price of {device} is set; an administrator sets it under Settings, Prices",
    )


def usd(usd_per_hour: Decimal, seconds: float) -> Decimal:
    """Return the cost, not rounded: amounts that are added up must not lose their small parts."""
    return usd_per_hour * Decimal(str(seconds)) / 3600


def cents(amount: Decimal) -> Decimal:
    """Round to a hundredth of a cent, as money is shown; more than any money is cut."""
    return min(amount, MAX_DOLLARS).quantize(Decimal("0.0001"), ROUND_HALF_UP)


def dollars(usd_per_hour: Decimal, seconds: float) -> Decimal:
    """Return the cost in whole cents."""
    return cents(usd(usd_per_hour, seconds))
