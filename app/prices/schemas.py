from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.http.pagination import Object
from app.models.strict_model import StrictModel
from falqon_core.estimate.cards import find_device
from falqon_core.estimate.devices import DEVICES
from falqon_core.estimate.prices import Dollars, Price, PriceKind

MAX_OVERRIDES = 100  # the table's devices, and cards of the operator's own
Source = Annotated[str, Field(min_length=1, max_length=200)]


@dataclass(frozen=True, slots=True)
class ListedPrice:
    price: Price
    in_force: bool


class PriceObject(Object):
    object: Literal["price"] = "price"
    device: str
    provider: str
    kind: Annotated[
        PriceKind,
        Field(
            description=(
                "typical: a typical rate, not a quote; override: set for this installation, by "
                "file or by PUT; unpriced: a card that the table does not list, without a price"
            )
        ),
    ]
    usd_per_device_hour: str
    as_of: date
    age_days: int
    source: str
    in_force: Annotated[
        bool,
        Field(description="the price for new estimates and running jobs; one per device"),
    ]

    @classmethod
    def of(cls, listed: ListedPrice) -> Self:
        price = listed.price
        return cls(
            id="-".join(
                f"price {price.device} {price.provider} {price.kind} {price.as_of}".lower()
                .replace("_", " ")
                .split()
            ),
            device=price.device,
            provider=price.provider,
            kind=price.kind,
            usd_per_device_hour=str(price.usd_per_device_hour),
            as_of=price.as_of,
            age_days=max(0, (datetime.now(UTC).date() - price.as_of).days),
            source=price.source,
            in_force=listed.in_force,
        )


class Override(StrictModel):
    device: str
    usd_per_device_hour: Dollars
    source: Source

    @model_validator(mode="after")
    def _check_device(self) -> Self:
        if find_device(self.device) is None:
            raise ValueError(
                f"device: '{self.device}' is not known; known devices: {', '.join(sorted(DEVICES))}"
            )
        return self


class PricesRequest(StrictModel):
    """Complete list of overrides; absent ones are withdrawn."""

    overrides: Annotated[list[Override], Field(max_length=MAX_OVERRIDES)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        devices = [override.device for override in self.overrides]
        if twice := next((device for device in devices if devices.count(device) > 1), None):
            raise ValueError(f"overrides: '{twice}' is there twice; name each device once")
        return self
