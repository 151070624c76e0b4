"""The `falqon` object of a request: every hyperparameter of a recipe, and what only the service decides."""

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from falqon_core.spec.config import Recipe
from falqon_core.spec.prices import Dollars


class Budget(BaseModel):
    """What a job may use up, over all its attempts. At a cap it writes a checkpoint and pauses; raising the cap lets it continue."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    max_cost_usd: Dollars | None = None
    max_seconds: Annotated[int, Field(ge=1, le=10**9)] | None = Field(None, description="of execution; time in the queue is free")

    def reached(self, seconds: float, cost: Decimal | None) -> str | None:
        """The cap that so much reaches, if any: its name and what it is."""
        if self.max_cost_usd is not None and cost is not None and cost >= self.max_cost_usd:
            return f"max_cost_usd {self.max_cost_usd}"
        if self.max_seconds is not None and seconds >= self.max_seconds:
            return f"max_seconds {self.max_seconds}"
        return None


class Extras(Recipe):
    budget: Budget | None = None

    @property
    def recipe_fields(self) -> dict[str, Any]:
        """What the user set of the recipe."""
        return self.model_dump(include=set(Recipe.model_fields), exclude_unset=True)
