from sqlalchemy.orm import Session

from app.database import Database
from app.files import repository as files
from app.inspections import repository
from app.inspections.repository import Question
from app.models import DEFAULT_PROJECT_ID, File, FileStatus, Inspection, Model, OperationStatus, Project
from app.models.base import JsonObject
from app.operations import claims

QUESTION = Question("file-1", "base", 2048, "")


def prepare(database: Database, *questions: Question) -> None:
    with database.transaction() as session:
        session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
        session.add(Model(id="base", config={}, bytes=1))
        session.flush()
        for name in ("file-1", "file-2"):
            session.add(
                File(
                    id=name, project_id=DEFAULT_PROJECT_ID, filename=name, purpose="fine-tune", bytes=1, sha256="", storage_key=name,
                    status=FileStatus.PROCESSED,
                )
            )  # fmt: skip
        session.flush()
        for question in questions:
            repository.ask(session, question)


def complete(session: Session, result: JsonObject) -> None:
    claimed = claims.claim(session, Inspection, stale_seconds=60.0)
    assert claimed is not None
    assert claims.write(session, claimed, status=OperationStatus.COMPLETED, result=result)


def test_asking_twice_is_asking_once(database: Database) -> None:
    prepare(database, QUESTION, QUESTION, QUESTION._replace(max_seq_length=512))
    with database.read() as session:
        assert len(repository.of_file(session, "file-1")) == 2
        assert repository.num_in_progress(session, DEFAULT_PROJECT_ID) == 2
        assert repository.num_in_progress(session, "another") == 0


def test_tokens_are_known_for_every_length_that_cuts_nothing(database: Database) -> None:
    prepare(database, QUESTION)
    with database.transaction() as session:
        assert repository.exact_tokens(session, "file-1", "base", 2048) is None
        complete(session, {"tokens_per_epoch": 100, "longest": 20})
        for length, expected in ((2048, 100), (4096, 100), (20, 100), (19, None)):
            assert repository.exact_tokens(session, "file-1", "base", length) == expected
        assert repository.exact_tokens(session, "file-2", "base", 2048) is None


def test_what_was_cut_is_known_for_its_own_length_only(database: Database) -> None:
    prepare(database, QUESTION)
    with database.transaction() as session:
        complete(session, {"tokens_per_epoch": 100, "longest": 3000})
        assert [repository.exact_tokens(session, "file-1", "base", length) for length in (2048, 4096, 1024)] == [100, None, None]


def test_with_a_file_goes_what_quotes_it(database: Database) -> None:
    prepare(database, QUESTION, Question("file-2", "base", 2048, "file-1"), Question("file-2", "base", 2048, ""))
    with database.transaction() as session:
        files.mark_deleted(session, ["file-1"])
        assert repository.of_file(session, "file-1") == []
        assert [row.validation_file_id for row in repository.of_file(session, "file-2")] == [""]
