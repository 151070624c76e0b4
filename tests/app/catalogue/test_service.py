"""Models as Hugging Face's libraries name them."""

from collections.abc import Iterator

import pytest
from sqlalchemy import event

from app.base.database import Database, now
from app.base.errors import NotFound
from app.catalogue import service
from app.catalogue.naming import hub_id
from app.models import Model, Project

TUNED = "ft:tiny:acme::01234567"
STEP_10 = f"{TUNED}:ckpt-step-10"


@pytest.fixture
def loaded() -> Iterator[list[str]]:
    """The ids of models that are read from the database."""
    ids: list[str] = []

    def note(model: Model, _context: object) -> None:
        ids.append(model.id)

    event.listen(Model, "load", note)
    yield ids
    event.remove(Model, "load", note)


def test_a_name_that_nothing_has_is_not_looked_for_in_all_models(
    database: Database, loaded: list[str]
) -> None:
    with database.transaction() as session:
        session.add(Project(id="proj_a", name="acme"))
        session.add(Model(id="odd name", config={}, bytes=1))
        session.flush()
        session.add(Model(id=TUNED, project_id="proj_a", config={}, bytes=1))
    with database.read() as session, pytest.raises(NotFound):
        service.find_by_hub_id(session, "proj_a", "acme/nothing")
    assert TUNED not in loaded
    with database.read() as session:
        assert service.find_by_hub_id(session, "proj_a", "odd-name").id == "odd name"
        assert service.find_by_hub_id(session, "proj_a", "ft/tiny-01234567").id == TUNED


def test_an_exported_checkpoint_is_found_by_its_hub_id(database: Database) -> None:
    with database.transaction() as session:
        session.add(Project(id="proj_a", name="acme"))
        session.flush()
        for model_id in (TUNED, f"{TUNED}:ckpt-step-1", STEP_10, f"{STEP_10}:lora"):
            session.add(Model(id=model_id, project_id="proj_a", config={}, bytes=1))
    with database.read() as session:
        for model_id in (STEP_10, f"{STEP_10}:lora"):
            assert service.find_by_hub_id(session, "proj_a", hub_id(model_id)).id == model_id


def test_a_hub_id_reads_the_row_of_its_model_alone(database: Database, loaded: list[str]) -> None:
    ids = [f"ft:tiny:acme::{number:08}" for number in range(20)]
    with database.transaction() as session:
        session.add_all([Project(id="proj_a", name="acme"), Project(id="proj_b", name="other")])
        session.flush()
        for model_id in ids:
            for form in ("", ":lora", ":ckpt-step-10:lora"):
                session.add(Model(id=model_id + form, project_id="proj_a", config={}, bytes=1))
    for model_id in (f"{ids[7]}:lora", f"{ids[7]}:ckpt-step-10:lora"):
        loaded.clear()
        with database.read() as session:
            assert service.find_by_hub_id(session, "proj_a", hub_id(model_id)).id == model_id
        assert loaded == [model_id]
    with database.read() as session, pytest.raises(NotFound):
        service.find_by_hub_id(session, "proj_b", hub_id(ids[7]))


def test_the_versions_of_a_model_are_those_that_begin_with_its_id(
    database: Database, loaded: list[str]
) -> None:
    with database.transaction() as session:
        session.add_all([Project(id="proj_a", name="acme"), Project(id="proj_b", name="other")])
        session.flush()
        others = (f"{TUNED}8:lora", f"{TUNED};lora", f"{TUNED.upper()}:lora")
        for model_id in (TUNED, f"{TUNED}:lora", STEP_10, *others):
            session.add(Model(id=model_id, project_id="proj_a", config={}, bytes=1))
        deleted = {"project_id": "proj_a", "config": {}, "bytes": 1, "deleted_at": now(session)}
        session.add(Model(id=f"{TUNED}:gguf", **deleted))
    loaded.clear()
    with database.read() as session:
        versions = service.versions_of(session, "proj_a", TUNED)
        assert service.versions_of(session, "proj_b", TUNED) == {}
    assert {suffix: model.id for suffix, model in versions.items()} == {
        "lora": f"{TUNED}:lora",
        "ckpt-step-10": STEP_10,
    }
    assert set(loaded) == {f"{TUNED}:lora", STEP_10}
