from pathlib import Path

import pytest

from app.base.processes.nvidia import Card, card_environment, visible_cards
from tests.support.nvidia import H100, RTX_4090, DriverCard, install_driver


def test_the_driver_names_the_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(tmp_path, monkeypatch, RTX_4090, H100)
    assert visible_cards() == (
        Card(0, "GPU-a0", RTX_4090, 24564, (8, 9)),
        Card(1, "GPU-a1", H100, 81559, (9, 0)),
    )


def test_a_driver_that_knows_no_capability_still_names_its_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusal = 'case "$1" in *compute_cap*) echo Field is not valid; exit 2;; esac'
    install_driver(tmp_path, monkeypatch, script=f"{refusal}\necho '0, GPU-a0, {RTX_4090}'")
    assert visible_cards() == (Card(0, "GPU-a0", RTX_4090),)


SPLIT = DriverCard("NVIDIA A100-SXM4-80GB", "81920 MiB", "8.0", ("3g.40gb", "1g.10gb+me"))


def test_slices_stand_in_the_place_of_their_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, H100, SPLIT)
    name = "NVIDIA A100-SXM4-80GB MIG"
    assert visible_cards() == (
        Card(0, "GPU-a0", H100, 81559, (9, 0)),
        Card(200, "MIG-b10", f"{name} 3g.40gb", 40_000, (8, 0)),
        Card(201, "MIG-b11", f"{name} 1g.10gb+me", 10_000, (8, 0)),
    )
    assert card_environment([201, 0])["CUDA_VISIBLE_DEVICES"] == "MIG-b11,0"


@pytest.mark.parametrize(
    ("variable", "indices"), [("MIG-b11", [201]), ("1", [200]), ("MIG-c", []), ("0", [0])]
)
def test_a_slice_is_chosen_by_its_uuid_or_as_the_first_of_its_card(
    variable: str, indices: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_driver(tmp_path, monkeypatch, H100, SPLIT)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert [card.index for card in visible_cards()] == indices


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
