from sqlalchemy import update
from sqlalchemy.orm import Session

from app.database import Database, now_plus
from app.files import repository as files
from app.inspections import repository
from app.inspections.repository import Question
from app.models import DEFAULT_PROJECT_ID, File, FileStatus, Inspection, InspectionStatus, Model, Project

QUESTION = Question("file-1", "base", 2048, "")
STALE_SECONDS = 60.0


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


def found(database: Database, question: Question = QUESTION) -> Inspection | None:
    with database.read() as session:
        return repository.find(session, question)


def claim(database: Database) -> str | None:
    with database.transaction() as session:
        claimed = repository.claim(session, STALE_SECONDS)
        return claimed.id if claimed else None


def test_asking_twice_is_asking_once(database: Database) -> None:
    prepare(database, QUESTION, QUESTION, QUESTION._replace(max_seq_length=512))
    with database.read() as session:
        assert len(repository.of_file(session, "file-1")) == 2
        assert repository.num_in_progress(session, DEFAULT_PROJECT_ID) == 2
        assert repository.num_in_progress(session, "another") == 0


def test_a_question_has_one_worker_until_that_one_is_silent(database: Database) -> None:
    prepare(database, QUESTION, QUESTION._replace(max_seq_length=512))
    first, second = claim(database), claim(database)
    assert None not in (first, second)
    assert first != second
    assert claim(database) is None
    with database.transaction() as session:
        session.execute(update(Inspection).values(claimed_at=now_plus(-STALE_SECONDS - 1)))
        assert repository.renew(session, str(second))
    assert claim(database) == first
    with database.transaction() as session:
        repository.release(session, str(second))
    assert claim(database) == second


def test_the_first_answer_counts(database: Database) -> None:
    prepare(database, QUESTION)
    claimed = str(claim(database))
    with database.transaction() as session:
        repository.complete(session, claimed, {"tokens_per_epoch": 100, "longest": 20})
        repository.fail(session, claimed, "too_slow", "late")
        assert not repository.renew(session, claimed)
    row = found(database)
    assert row is not None
    assert (row.status, row.error_code) == (InspectionStatus.COMPLETED, None)
    assert claim(database) is None


def test_tokens_are_known_for_every_length_that_cuts_nothing(database: Database) -> None:
    prepare(database, QUESTION)
    with database.transaction() as session:
        assert repository.exact_tokens(session, "file-1", "base", 2048) is None
        repository.complete(session, claim_in(session), {"tokens_per_epoch": 100, "longest": 20})
        for length, expected in ((2048, 100), (4096, 100), (20, 100), (19, None)):
            assert repository.exact_tokens(session, "file-1", "base", length) == expected
        assert repository.exact_tokens(session, "file-2", "base", 2048) is None


def test_what_was_cut_is_known_for_its_own_length_only(database: Database) -> None:
    prepare(database, QUESTION)
    with database.transaction() as session:
        repository.complete(session, claim_in(session), {"tokens_per_epoch": 100, "longest": 3000})
        assert [repository.exact_tokens(session, "file-1", "base", length) for length in (2048, 4096, 1024)] == [100, None, None]


def test_with_a_file_goes_what_quotes_it(database: Database) -> None:
    prepare(database, QUESTION, Question("file-2", "base", 2048, "file-1"), Question("file-2", "base", 2048, ""))
    with database.transaction() as session:
        files.mark_deleted(session, ["file-1"])
        assert repository.of_file(session, "file-1") == []
        assert [row.validation_file_id for row in repository.of_file(session, "file-2")] == [""]


def claim_in(session: Session) -> str:
    claimed = repository.claim(session, STALE_SECONDS)
    assert claimed is not None
    return claimed.id
