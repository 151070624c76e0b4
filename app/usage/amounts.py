from datetime import date
from decimal import Decimal
from typing import NamedTuple

FIELDS = ("project_id", "api_key_id", "model")  # dimensions of usage, as the API names them


class Usage(NamedTuple):
    """Usage of a day in one group: `group` holds the values of these `FIELDS`."""

    day: date
    group: dict[str, str | None]
    cost: Decimal
    device_seconds: float
    tokens: int
    num_jobs: int
