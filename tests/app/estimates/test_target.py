import pytest

from app.base.database import Database
from app.base.errors import InvalidRequest
from app.base.settings import Settings
from app.estimates.service import check_device, most_gpus, target_of
from app.prices.service import all_prices
from app.workers import service as workers
from falqon_core.contract.diagnosis import CheckRow, Diagnosis


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


def test_a_job_names_one_of_the_devices_that_workers_have(database: Database) -> None:
    settings = Settings(device="auto", num_threads=3)
    with database.transaction() as session:
        for worker, device, num_gpus in (("large", "h100", 4), ("newest", "cpu", 1)):
            workers.mark_seen(session, worker, device, 2, num_gpus)
        for name in ("any", "h100", "cpu"):
            check_device(session, name, settings)
        with pytest.raises(InvalidRequest, match=r"no worker trains on 'l40s'; .* 'cpu', 'h100'"):
            check_device(session, "l40s", settings)
        assert target_of(session, settings, "h100").device.name == "h100"
        assert most_gpus(session, settings, "h100").num_devices == 8


def test_a_device_that_only_a_newer_worker_knows_is_passed_over(database: Database) -> None:
    """While an installation is upgraded, machine by machine."""
    settings = Settings(device="auto", num_threads=3)
    with database.transaction() as session:
        workers.mark_seen(session, "newer", "z9000", 1)
        target = target_of(session, settings)
        assert (target.device.name, target.num_devices) == ("cpu", 3)
        with pytest.raises(InvalidRequest, match=r"this service trains on 'cpu'\."):
            check_device(session, "z9000", settings)


def test_a_card_that_is_not_listed_is_what_its_workers_name_says(database: Database) -> None:
    settings = Settings(device="auto", num_threads=3)
    card = "rtx-5090-31gib-sm120"
    row = CheckRow(name="FP8 products", status="ok", detail="", seconds=0.1, tflops=350.0)
    with database.transaction() as session:
        workers.mark_seen(session, "owner", card, 1)
        check_device(session, card, settings)
        target = target_of(session, settings)
        assert (target.device.name, target.device.memory_gib) == (card, 31)
        (price,) = (
            listed.price for listed in all_prices(session, settings) if listed.price.device == card
        )
        assert price.kind == "unpriced"
        assert workers.measured_tflops(session, card) is None
        workers.store_diagnosis(session, "owner", Diagnosis(rows=(row,), seconds=1.0))
        assert workers.measured_tflops(session, card) == 350
