import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from app.base.settings import Settings
from app.estimates.service import device_of
from tests.support.nvidia import H100, RTX_4090, DriverCard, install_driver
from worker.machine.card_locks import lock_path
from worker.machine.gpu import Machine, detect


def test_a_cpu_counts_its_cores() -> None:
    assert detect(Settings(device="cpu", num_threads=3)) == Machine("cpu", 3)
    assert detect(Settings(device="auto")) == Machine("cpu", len(os.sched_getaffinity(0)))
    assert detect(Settings(device="h100")) == Machine("h100", 1)


def test_a_slot_is_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    machine = detect(Settings(device="cpu", slots=3))
    assert (machine, machine.max_gpus) == (Machine("cpu", 2, (0, 1, 2)), 3)
    assert machine.part(2) == Machine("cpu", 4, (0, 1))
    assert detect(Settings(device="cpu", slots=3, num_threads=1)).num_devices == 1


def test_the_card_that_the_driver_names_is_estimated_and_charged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, H100)
    settings = Settings(device="auto")
    assert detect(settings) == Machine("h100", 1, (0,))
    assert device_of(settings).device.name == "h100"


def test_a_job_has_as_many_cards_as_it_pays_for() -> None:
    machine = Machine("h100", 1, (1, 3, 5))
    assert (machine.max_gpus, machine.part(2)) == (3, Machine("h100", 2, (1, 3)))
    cpu = Machine("cpu", 8)
    assert (cpu.max_gpus, cpu.part(1)) == (1, cpu)


def test_a_cpu_that_was_chosen_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, monkeypatch, H100)
    assert detect(Settings(device="cpu", num_threads=2)) == Machine("cpu", 2)


def test_a_worker_has_only_cards_that_are_charged_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, RTX_4090, H100, RTX_4090, "NVIDIA RTX 6000")
    assert detect(Settings(device="auto")) == Machine("rtx-4090", 1, (0, 2))
    assert detect(Settings(device="h100")) == Machine("h100", 1, (1, 3))


def test_a_worker_has_only_the_cards_that_were_chosen_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, RTX_4090, H100, RTX_4090)
    assert detect(Settings(device="auto", cards=(1,))) == Machine("h100", 1, (1,))
    assert detect(Settings(device="auto", cards=(2, 0))) == Machine("rtx-4090", 1, (0, 2))
    assert detect(Settings(device="cpu", slots=3, num_threads=1, cards=(2,))).cards == (2,)


def test_a_card_that_is_not_listed_may_be_charged_as_one_that_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, "NVIDIA RTX 6000")
    assert detect(Settings(device="auto")) == Machine("rtx-6000-gpu", 1, (0,))
    assert detect(Settings(device="l40s")) == Machine("l40s", 1, (0,))


def test_a_job_has_one_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = DriverCard("NVIDIA H100 80GB HBM3", "81559 MiB", "9.0", ("3g.40gb", "3g.40gb"))
    install_driver(tmp_path, monkeypatch, card)
    machine = detect(Settings(device="auto"))
    assert machine == Machine("h100-80gb-hbm3-mig-3g-40gb-39gib-sm90", 1, (100, 101))
    assert machine.max_gpus == 1
    assert lock_path(101).name == "falqon-card-MIG-b01.lock"


UNUSED = [
    (DriverCard("Tesla T4", "15360 MiB", "7.5"), None, None, "compute capability 8.0 or later"),
    (H100, "", None, "CUDA_VISIBLE_DEVICES='' leaves every card out"),
    (H100, None, (3,), "FALQON_CARDS leaves every card out"),
]


@pytest.mark.parametrize(("card", "visible", "cards", "reason"), UNUSED)
def test_a_card_that_is_not_used_is_said_in_the_log(
    card: str | DriverCard,
    visible: str | None,
    cards: tuple[int, ...] | None,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_driver(tmp_path, monkeypatch, card)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with capture_logs() as lines:
        assert detect(Settings(device="auto", cards=cards)).device == "cpu"
        assert detect(Settings(device="cpu")).device == "cpu"
    (line,) = lines
    assert (line["log_level"], line["event"]) == ("warning", "a GPU is here and not used")
    assert reason in line["reason"]


def test_an_unknown_device_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="FALQON_DEVICE is 'abacus'"):
        detect(Settings(device="abacus"))
