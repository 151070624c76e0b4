from typing import Any

from sqlalchemy.orm import Session

from app.base.database import Database
from app.dataset_statistics import repository
from app.dataset_statistics.repository import StatisticsKey
from app.files import repository as files
from app.models import DEFAULT_PROJECT_ID, DatasetStatistics, Model, Project
from app.models.base import JsonObject
from app.operations import claims
from app.operations import service as operations
from falqon_core.contract.config import Recipe
from falqon_core.estimate.long_text import EpochAmount
from tests.support.rows import checked_file

KEY = StatisticsKey("file-1", "base", 2048, "")


def prepare(database: Database, *questions: StatisticsKey) -> None:
    with database.transaction() as session:
        session.add(Project(id=DEFAULT_PROJECT_ID, name="default"))
        session.add(Model(id="base", config={}, bytes=1))
        session.flush()
        for name in ("file-1", "file-2"):
            session.add(checked_file(name, DEFAULT_PROJECT_ID, name))
        session.flush()
        for question in questions:
            repository.add(session, DEFAULT_PROJECT_ID, question)


def complete(session: Session, result: JsonObject) -> None:
    claimed = claims.claim(session, DatasetStatistics, lease_seconds=60.0)
    assert claimed is not None
    assert claims.complete(session, claimed, result=result)


def amount_at(
    session: Session, max_seq_length: int, file_id: str = "file-1", **options: Any
) -> EpochAmount | None:
    recipe = Recipe(max_seq_length=max_seq_length, **options)
    return repository.exact_amount(session, file_id, "base", recipe)


def test_asking_twice_is_asking_once(database: Database) -> None:
    prepare(database, KEY, KEY, KEY._replace(max_seq_length=512))
    with database.read() as session:
        assert len(repository.list_of_file(session, "file-1")) == 2
        assert operations.num_in_progress(session, DatasetStatistics, DEFAULT_PROJECT_ID) == 2
        assert operations.num_in_progress(session, DatasetStatistics, "another") == 0


def test_tokens_are_known_for_every_length_that_cuts_nothing(database: Database) -> None:
    prepare(database, KEY)
    with database.transaction() as session:
        assert amount_at(session, 2048) is None
        complete(session, {"tokens_per_epoch": 100, "sequences": 9, "longest": 20})
        for length, expected in ((2048, 100), (4096, 100), (20, 100), (19, None)):
            assert amount_at(session, length) == (expected and EpochAmount(9, expected))
        assert amount_at(session, 2048, "file-2") is None


def test_counts_of_cut_texts_hold_for_their_own_length_only(database: Database) -> None:
    prepare(database, KEY)
    with database.transaction() as session:
        complete(session, {"tokens_per_epoch": 100, "sequences": 9, "longest": 3000, "split": 0})
        amounts = [amount_at(session, length) for length in (2048, 4096, 1024)]
        assert amounts == [EpochAmount(9, 100), None, None]


def test_counts_without_splits_are_unknown_where_texts_are_longer(database: Database) -> None:
    prepare(database, KEY)
    with database.transaction() as session:
        complete(session, {"tokens_per_epoch": 100, "sequences": 9, "longest": 3000})
        assert amount_at(session, 2048) is None


def test_an_overlap_is_counted_where_texts_are_split(database: Database) -> None:
    counts = [
        {"text_overlap_tokens": overlap, "sequences": 9 + overlap, "tokens_per_epoch": 100}
        for overlap in (0, 512, 1024)
    ]
    counted = {"tokens_per_epoch": 100, "sequences": 9, "longest": 3000, "split": 2}
    other = KEY._replace(file_id="file-2")
    prepare(database, KEY, other)
    with database.transaction() as session:
        complete(session, counted | {"overlaps": counts})
        complete(session, counted)
        assert amount_at(session, 2048, text_overlap_tokens=512) == EpochAmount(521, 100)
        assert amount_at(session, 2048, text_overlap_tokens=600) == EpochAmount(609, 100)
        assert amount_at(session, 4096, text_overlap_tokens=512) is None
        assert amount_at(session, 2048, "file-2", text_overlap_tokens=512) is None
        assert amount_at(session, 2048, "file-2") == EpochAmount(9, 100)


def test_tokens_are_of_one_chat_template(database: Database) -> None:
    prepare(database, KEY._replace(chat_template_kwargs='{"enable_thinking":false}'))
    with database.transaction() as session:
        complete(session, {"tokens_per_epoch": 100, "sequences": 9, "longest": 20})
        assert amount_at(session, 2048) is None
        for value, expected in ((False, EpochAmount(9, 100)), (True, None)):
            kwargs = {"enable_thinking": value}
            assert amount_at(session, 2048, chat_template_kwargs=kwargs) == expected


def test_new_parameters_wait_for_statistics_in_progress_and_replace_them(
    database: Database,
) -> None:
    other = KEY._replace(chat_template_kwargs='{"enable_thinking":false}')
    prepare(database, KEY, other)
    with database.transaction() as session:
        assert repository.find(session, other) is None
        complete(session, {"tokens_per_epoch": 100, "longest": 20})
        repository.add(session, DEFAULT_PROJECT_ID, other)
        assert (repository.find(session, KEY), len(repository.list_of_file(session, "file-1"))) == (
            None,
            1,
        )
        assert repository.find(session, other) is not None


def test_a_deleted_file_takes_its_statistics_along(database: Database) -> None:
    prepare(
        database,
        KEY,
        StatisticsKey("file-2", "base", 2048, "file-1"),
        StatisticsKey("file-2", "base", 2048, ""),
    )
    with database.transaction() as session:
        files.mark_deleted(session, ["file-1"])
        assert repository.list_of_file(session, "file-1") == []
        assert [row.validation_file_id for row in repository.list_of_file(session, "file-2")] == [
            ""
        ]
