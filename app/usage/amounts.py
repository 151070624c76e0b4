from datetime import date
from decimal import Decimal
from typing import NamedTuple

FIELDS = ("project_id", "api_key_id", "model")  # that usage is grouped by, as the API names them


class Usage(NamedTuple):
    """What was used on a day, by whom as far as it was asked for: `group` holds the values of
    these `FIELDS`.
    """

    day: date
    group: dict[str, str | None]
    cost: Decimal
    device_seconds: float
    tokens: int
    num_jobs: int
