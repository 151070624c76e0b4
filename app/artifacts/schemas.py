from typing import Literal, Self
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

from app.base.storage import BLOCK_BYTES
from app.http.pagination import Object
from app.models import Artifact

MAX_LINK_SECONDS = 7 * 24 * 3600


class ArtifactObject(Object):
    object: Literal["model.artifact"] = "model.artifact"
    model: str
    name: str
    bytes: int
    sha256: str
    created_at: int

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        return cls(
            id=artifact.name,
            model=artifact.model_id,
            name=artifact.name,
            bytes=artifact.bytes,
            sha256=artifact.sha256,
            created_at=int(artifact.created_at.timestamp()),
        )


class ManifestFile(BaseModel):
    name: str
    bytes: int
    sha256: str
    url: str = Field(
        description=(
            "relative to the manifest; names these very bytes, so its response never changes"
        )
    )
    block_bytes: int = Field(description="size of each block but the last")
    block_sha256: list[str]

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        return cls(
            name=artifact.name,
            bytes=artifact.bytes,
            sha256=artifact.sha256,
            url=f"{quote(artifact.name)}?sha256={artifact.sha256}",
            # Files stored before blocks were hashed count as one block.
            block_bytes=BLOCK_BYTES if artifact.block_sha256 else max(BLOCK_BYTES, artifact.bytes),
            block_sha256=artifact.block_sha256 or [artifact.sha256],
        )


class Manifest(BaseModel):
    model: str
    bytes: int
    files: list[ManifestFile]

    @classmethod
    def of(cls, model_id: str, artifacts: list[Artifact]) -> Self:
        files = [ManifestFile.of(artifact) for artifact in artifacts]
        return cls(model=model_id, bytes=sum(file.bytes for file in files), files=files)


class LinkRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=255, description="of the artifact")
    expires_in_seconds: int = Field(3600, ge=1, le=MAX_LINK_SECONDS)


class LinkObject(BaseModel):
    object: Literal["model.artifact.link"] = "model.artifact.link"
    url: str = Field(
        description=(
            "works without an API key until it expires, or until the key that created it is revoked"
        )
    )
    expires_at: int
