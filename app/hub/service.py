"""Queries of Hugging Face's libraries on models and files."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Literal, TypeVar

from sqlalchemy.orm import Session

from app.artifacts import service as artifacts
from app.auth.caller import Caller
from app.base.errors import NotFound
from app.catalogue import service as catalogue
from app.catalogue.naming import hub_id
from app.files import service as files
from app.hub.tree import Repository, TreeEntry, commit_of
from app.models import File, Model, Purpose
from app.services import Services

T = TypeVar("T")
Kind = Literal["models", "datasets"]
MAIN_REVISION = "main"
FILES_PREFIX = "files/"  # prefix of the id of a file: `datasets` takes no id without an owner
REPOSITORY, REVISION, ENTRY = (
    "RepoNotFound",
    "RevisionNotFound",
    "EntryNotFound",
)  # spelled as in the protocol
RECORD_SUFFIXES = {".jsonl", ".json"}


def open_repository(
    services: Services, caller: Caller, kind: Kind, repo: str, revision: str = MAIN_REVISION
) -> Repository:
    """Return a revision of a model or of a file. Raises `NotFound` with a code of the protocol."""
    with services.database.read() as session:
        return find_repository(session, caller.project_id, kind, repo, revision)


def note_download(services: Services, repository: Repository) -> None:
    if repository.model is not None:
        catalogue.note_use(services.database, repository.model)


def list_revisions(
    services: Services, caller: Caller, kind: Kind, repo: str
) -> dict[str, Repository]:
    project_id = caller.project_id
    with services.database.read() as session:
        names = [MAIN_REVISION] if kind == "datasets" else list(_models(session, project_id, repo))
        return {name: find_repository(session, project_id, kind, repo, name) for name in names}


def find_repository(
    session: Session, project_id: str, kind: Kind, repo: str, revision: str = MAIN_REVISION
) -> Repository:
    """Open a revision by its name, or by the commit that the name stands for. Raises `NotFound`
    with a code of the protocol.
    """
    if kind == "datasets":
        file_id = repo.removeprefix(FILES_PREFIX)
        file = _find_or_refuse(repo, lambda: files.get(session, project_id, file_id))
        files.require_content(file)
        revisions = {MAIN_REVISION: _of_file(file)}
    else:
        models = _models(session, project_id, repo)
        chosen = {revision: models[revision]} if revision in models else models
        revisions = {
            name: _of_model(session, project_id, models[MAIN_REVISION], model)
            for name, model in chosen.items()
        }
    by_commit = {repository.commit: repository for repository in revisions.values()}
    repository = revisions.get(revision) or by_commit.get(revision)
    if repository is None:
        raise NotFound(
            f"'{repo}' has no revision '{revision}'; it has {', '.join(revisions)}.",
            param="revision",
            code=REVISION,
        )
    return repository


def _models(session: Session, project_id: str, repo: str) -> dict[str, Model]:
    """Return the model, its other formats, and the exports of its job's checkpoints."""
    model = _find_or_refuse(repo, lambda: catalogue.find_by_hub_id(session, project_id, repo))
    return {MAIN_REVISION: model} | catalogue.versions_of(session, project_id, model.id)


def _find_or_refuse(repo: str, find: Callable[[], T]) -> T:
    try:
        return find()
    except NotFound:
        raise NotFound(f"There is no '{repo}' here.", param="repo", code=REPOSITORY) from None


def entry_at(repository: Repository, path: str) -> TreeEntry:
    for entry in repository.entries:
        if entry.path == path:
            return entry
    raise missing_error(repository, path)


def missing_error(repository: Repository, path: str) -> NotFound:
    """Return the error with the commit, with which clients cache that a file is missing."""
    headers = {"x-repo-commit": repository.commit}
    return NotFound(
        f"'{repository.id}' has no '{path}' at this revision.",
        param="path",
        code=ENTRY,
        headers=headers,
    )


def _of_model(session: Session, project_id: str, main: Model, model: Model) -> Repository:
    entries = [
        TreeEntry(artifact.name, artifact.bytes, artifact.sha256, artifact.storage_key)
        for artifact in artifacts.list_of_model(session, project_id, model.id)
    ]
    is_private = model.project_id is not None
    commit = commit_of(entries)
    return Repository(hub_id(main.id), commit, model.created_at, is_private, entries, model)


def _of_file(file: File) -> Repository:
    entries = [TreeEntry(_record_name(file), file.bytes, file.sha256, file.storage_key)]
    return Repository(
        f"{FILES_PREFIX}{file.id}", commit_of(entries), file.created_at, True, entries
    )


def _record_name(file: File) -> str:
    """Return a name whose suffix tells `load_dataset` the format."""
    if (
        file.purpose != Purpose.FINE_TUNE
        or PurePosixPath(file.filename).suffix.lower() in RECORD_SUFFIXES
    ):
        return file.filename
    return f"{file.filename}.jsonl"
