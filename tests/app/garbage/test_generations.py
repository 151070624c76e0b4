from datetime import timedelta

from sqlalchemy import select

from app.database import now
from app.garbage import collector
from app.models import DEFAULT_PROJECT_ID, Generation
from tests.support.backend import Backend
from tests.support.fixtures import backend as backend


def test_prompts_that_an_earlier_release_kept_go_after_a_day(backend: Backend) -> None:
    with backend.database.transaction() as session:
        for id_, hours in (("old", -25), ("young", -23)):
            session.add(
                Generation(
                    id=id_, project_id=DEFAULT_PROJECT_ID, model_id="a", prompt="Well?",
                    max_tokens=8, answer="", base_answer="", status="completed", attempts=1,
                    created_at=now(session) + timedelta(hours=hours),
                )
            )  # fmt: skip
    collector.forget_generations(backend.database)
    with backend.database.read() as session:
        assert session.scalars(select(Generation.id)).all() == ["young"]
