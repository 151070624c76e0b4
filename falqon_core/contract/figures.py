"""Bounds of the figures and texts that trainers and workers report: finite, and small enough for
the columns that keep them and for the arithmetic of their readers.
"""

from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, Field

MAX_STEPS = 2**31 - 1
MAX_COUNT = 2**63 - 1
MAX_SECONDS = 1e10  # three centuries
MAX_MEASURE = 1e100  # A training that diverges has gradients of many digits.
MAX_DOLLARS = Decimal(10) ** 20  # With four decimal places; decimals are computed with 28 digits.
MAX_TEXT = 2**16  # characters
# Sequences of one chat whose template rewrites turns; they share an optimizer step.
MAX_SEQUENCES = 256

Step = Annotated[int, Field(ge=0, le=MAX_STEPS)]
TotalSteps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Seconds = Annotated[float, Field(ge=0, le=MAX_SECONDS, allow_inf_nan=False)]
DeviceSeconds = Annotated[float, Field(ge=0, le=1e15, allow_inf_nan=False)]
Measure = Annotated[float, Field(ge=-MAX_MEASURE, le=MAX_MEASURE, allow_inf_nan=False)]
Dollars = Annotated[Decimal, Field(ge=0, le=MAX_DOLLARS, allow_inf_nan=False)]
Name = Annotated[str, Field(max_length=300)]
# A longer one is cut: its beginning says more than a refusal would.
Text = Annotated[str, AfterValidator(lambda text: text[:MAX_TEXT])]
