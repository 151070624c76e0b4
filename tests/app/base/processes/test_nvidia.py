from pathlib import Path

import pytest

from app.base.processes.nvidia import Card, card_environment, visible_cards
from tests.support.nvidia import H100, RTX_4090, install_driver


def test_the_driver_names_the_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, monkeypatch, RTX_4090, H100)
    assert visible_cards() == (Card(0, "GPU-a0", RTX_4090), Card(1, "GPU-a1", H100))


@pytest.mark.parametrize(
    ("variable", "indices"),
    [("1,0", [1, 0]), ("GPU-a1", [1]), ("", []), ("-1", []), ("1,7,0", [1]), ("MIG-a0", [])],
)
def test_cards_that_cuda_would_not_see_are_left_out(
    variable: str, indices: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, H100, H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [card.index for card in visible_cards()] == indices


def test_a_child_sees_the_cards_that_its_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, H100, H100, H100)
    for name, value in card_environment([2, 1]).items():
        monkeypatch.setenv(name, value)
    assert [card.index for card in visible_cards()] == [2, 1]


@pytest.mark.parametrize("script", ["echo 'No devices were found'; exit 6", "exit 9"])
def test_a_driver_that_does_not_answer_has_no_cards(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, script=script)
    assert visible_cards() == ()


def test_a_machine_without_a_driver_has_no_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_cards() == ()
