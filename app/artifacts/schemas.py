from typing import Literal, Self

from pydantic import BaseModel

from app.models import Artifact
from app.pagination import Object


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


class Manifest(BaseModel):
    model: str
    bytes: int
    files: list[ManifestFile]

    @classmethod
    def of(cls, model_id: str, artifacts: list[Artifact]) -> Self:
        files = [ManifestFile(name=artifact.name, bytes=artifact.bytes, sha256=artifact.sha256) for artifact in artifacts]
        return cls(model=model_id, bytes=sum(file.bytes for file in files), files=files)
