"""What a list of models keeps is what the database holds."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from app.base.database import Database
from app.catalogue import listing
from app.catalogue.listing import ModelLists
from app.catalogue.schemas import ModelObject
from app.http.pagination import Page
from app.models import Model, Project
from tests.support.plans import statements

START = datetime(2026, 1, 1, tzinfo=UTC)


class Shelf:
    """The models of two projects, and lists that are asked for again and again."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.lists = ModelLists()
        with database.transaction() as session:
            session.add_all(Project(id=id_, name=id_) for id_ in ("proj_a", "proj_b"))
        self.add("base", project_id=None)

    def add(self, id_: str, project_id: str | None = "proj_a", minutes: int = 0) -> None:
        with self.database.transaction() as session:
            columns = {
                "config": {"a": 1},
                "bytes": 7,
                "base_model_id": "base" if project_id else None,
            }
            session.add(
                Model(
                    id=id_,
                    project_id=project_id,
                    created_at=START + timedelta(minutes=minutes),
                    **columns,
                )
            )

    def set_deleted(self, id_: str, moment: datetime | None) -> None:
        with self.database.transaction() as session:
            session.execute(update(Model).where(Model.id == id_).values(deleted_at=moment))

    def check(self, project_id: str = "proj_a") -> list[str]:
        """The list is what a new one would be."""
        own = Model.project_id == project_id
        with self.database.read() as session:
            bases = session.scalars(select(Model).where(Model.project_id.is_(None))).all()
            order = (Model.created_at, Model.id)
            models = session.scalars(
                select(Model).where(own, Model.deleted_at.is_(None)).order_by(*order)
            ).all()
            listed: dict[str, Any] = json.loads(self.lists.page(session, project_id))
        assert (
            listed
            == Page[ModelObject]
            .of([ModelObject.of(model) for model in (*bases, *models)])
            .model_dump()
        )
        return [model["id"] for model in listed["data"]]


@pytest.fixture
def shelf(database: Database) -> Shelf:
    return Shelf(database)


def test_a_list_follows_whatever_happens_to_models(shelf: Shelf) -> None:
    assert shelf.check() == ["base"]
    shelf.add("ft:a", minutes=2)
    shelf.add('ft:"ü"', minutes=3)
    assert shelf.check() == ["base", "ft:a", 'ft:"ü"']
    shelf.add("ft:c", minutes=4)
    shelf.add("ft:other", "proj_b", minutes=5)
    assert shelf.check() == ["base", "ft:a", 'ft:"ü"', "ft:c"]
    assert shelf.check("proj_b") == ["base", "ft:other"]
    shelf.set_deleted("ft:a", START)
    assert shelf.check() == ["base", 'ft:"ü"', "ft:c"]
    # An export that was deleted is made again while another model is deleted: as many as before.
    shelf.set_deleted("ft:a", None)
    shelf.set_deleted("ft:c", START + timedelta(hours=1))
    assert shelf.check() == ["base", "ft:a", 'ft:"ü"']
    # Begun before another one, written after it.
    shelf.add("ft:late", minutes=1)
    assert shelf.check() == ["base", "ft:late", "ft:a", 'ft:"ü"']
    shelf.add("base-2", project_id=None)
    assert shelf.check() == ["base", "base-2", "ft:late", "ft:a", 'ft:"ü"']


def test_a_list_that_has_not_changed_is_not_read_again(shelf: Shelf) -> None:
    for number in range(5):
        shelf.add(f"ft:{number}", minutes=number)
    shelf.check()

    def list_queries() -> list[str]:
        with statements(shelf.database) as queries, shelf.database.read() as session:
            shelf.lists.page(session, "proj_a")
        return [
            statement for statement, _ in queries if "models.id" in statement.partition("FROM")[0]
        ]

    assert list_queries() == []
    shelf.add("ft:new", minutes=9)
    (new,) = list_queries()
    assert "models.created_at, models.id) >" in new
    assert list_queries() == []


def test_lists_take_no_more_memory_than_they_may(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_KEPT_BYTES", 10)
    shelf.add("ft:a")
    assert shelf.check() == shelf.check() == ["base", "ft:a"]
    assert not shelf.lists._kept
