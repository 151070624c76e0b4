from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from app.http.pagination import Object, unix_seconds
from app.models import ApiKey, Scope
from app.models.strict_model import StrictModel
from app.models.usage_day import MAX_DOLLARS
from app.projects.schemas import Name
from falqon_core.estimate.prices import Dollars

LAST_SECOND = 253_402_300_799  # end of the year 9999, the last one that databases store


class KeyRequest(StrictModel):
    name: Name
    scope: Annotated[
        Scope,
        Field(
            strict=False,
            description="each includes those before it: infer, read, agent, write, admin; "
            "metrics: only /metrics",
        ),
    ]
    project_id: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = Field(
        None, description="default: the caller's"
    )
    expires_at: Annotated[int, Field(ge=0, le=LAST_SECOND)] | None = Field(
        None, description="seconds since 1970; null: never"
    )
    daily_budget_usd: Annotated[
        Dollars | None,
        Field(
            le=MAX_DOLLARS,
            validate_default=True,
            description="most that the jobs of an agent's key may cost on a UTC day; required for "
            "the scope agent, and for no other",
        ),
    ] = None

    @field_validator("daily_budget_usd")
    @classmethod
    def _require_the_budget_of_an_agent(
        cls, budget: Decimal | None, others: ValidationInfo
    ) -> Decimal | None:
        is_agent = others.data.get("scope") is Scope.AGENT
        if is_agent and budget is None:
            raise ValueError('a key of scope agent needs one, such as "5"')
        if not is_agent and budget is not None:
            raise ValueError("only a key of scope agent has one")
        return budget


class KeyObject(Object):
    object: Literal["api_key"] = "api_key"
    created_at: int
    name: str
    project_id: str
    scope: Scope
    expires_at: int | None
    user_id: Annotated[
        str | None, Field(description="person that it belongs to; null: a key of the project")
    ]
    daily_budget_usd: Annotated[Decimal | None, Field(description="of an agent's key")]
    last_used_at: Annotated[int | None, Field(description="to the minute")]

    @classmethod
    def of(cls, key: ApiKey, **more: str) -> Self:
        return cls(
            id=key.id,
            created_at=int(key.created_at.timestamp()),
            name=key.name,
            project_id=key.project_id,
            scope=Scope(key.scope),
            daily_budget_usd=key.daily_budget_usd,
            expires_at=unix_seconds(key.expires_at),
            user_id=key.user_id,
            last_used_at=unix_seconds(key.last_used_at),
            **more,
        )


class KeyCreated(KeyObject):
    secret: Annotated[str, Field(description="shown this once; the service keeps only its hash")]


class KeyDeleted(Object):
    object: Literal["api_key"] = "api_key"
    deleted: bool = True
