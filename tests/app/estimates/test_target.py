from app.database import Database
from app.estimates.service import target_of
from app.settings import Settings
from app.workers import service as workers


def test_auto_is_what_the_worker_that_came_last_trains_on(database: Database) -> None:
    settings = Settings(device="auto", num_threads=3)
    with database.transaction() as session:
        target = target_of(session, settings)
        assert (target.device.name, target.num_devices) == ("cpu", 3)
    for worker, device in (("first", "cpu"), ("second", "h100"), ("first", "cpu")):
        with database.transaction() as session:
            workers.mark_seen(session, worker, device, 1)
    with database.read() as session:
        target = target_of(session, settings)
        assert (target.device.name, target.num_devices) == ("h100", 1)
        assert target_of(session, Settings(device="l40s")).device.name == "l40s"
