"""Tokens for a project's private sources. They go in and never come out."""

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, StringConstraints

from app.http.pagination import Object
from app.models import SourceToken
from app.models.strict_model import StrictModel

MAX_SECRET = 4096
Secret = Annotated[SecretStr, Field(min_length=1, max_length=MAX_SECRET)]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,40}$")]
Endpoint = Annotated[str, StringConstraints(pattern=r"^https?://[^\s/?#@]+$", max_length=256)]
Kind = Literal["hf", "s3"]


class _Secret(StrictModel):
    def secret(self) -> dict[str, str]:
        """Return the stored form."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value
            for name, value in values.items()
            if value is not None
        }


class HubToken(_Secret):
    token: Secret


class S3Key(_Secret):
    access_key_id: Secret
    secret_access_key: Secret
    session_token: Secret | None = None
    region: Region | None = None
    endpoint: Annotated[
        Endpoint | None,
        Field(description="endpoint of a store that is not Amazon's; a public address"),
    ] = None


class SourceTokenObject(Object):
    object: Literal["source_token"] = "source_token"
    kind: Annotated[str, Field(description="hf: the Hugging Face Hub; s3: buckets")]
    created_at: int

    @classmethod
    def of(cls, token: SourceToken) -> Self:
        created_at = int(token.created_at.timestamp())
        return cls(id=token.id, kind=token.kind, created_at=created_at)


class SourceTokenDeleted(Object):
    object: Literal["source_token"] = "source_token"
    deleted: bool = True
